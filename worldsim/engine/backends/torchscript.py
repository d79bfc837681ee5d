"""TorchScript: a part traced and frozen, run by PyTorch's own interpreter instead of Python's; no compiler.

At batch one a third of a tick is Python between kernels. PyTorch calls TorchScript superseded by torch.export, but has
no other way to run a graph without Python or a compiler.
"""

from __future__ import annotations

import threading
import warnings

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part, first_line
from worldsim.errors import BackendError

_RUNS = 3  # the interpreter looks at its first runs and settles then
_TRACER = threading.Lock()  # PyTorch has one for the whole process; sessions side by side are made in threads


class TorchScript:
    """One frozen trace a part, for fixed shapes."""

    name = "torchscript"
    fixed_shapes = True

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, traced; see :class:`~worldsim.engine.backends.Backend`."""
        try:
            # Tensors of inference mode cannot be traced; copies made outside of it can.
            with _TRACER, torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that shapes are fixed, and that it is superseded
                copies = tuple(x.clone() for x in example)
                traced = torch.jit.freeze(torch.jit.trace(part, copies, check_trace=False).eval())  # type: ignore[no-untyped-call]
            with _TRACER:
                for _ in range(_RUNS):
                    traced(*example)
        except Exception as error:
            raise BackendError(
                f"backend 'torchscript' cannot trace this world ({first_line(error)}): use backend=eager"
            ) from error
        run: Part = traced
        return run


def make(device: torch.device) -> TorchScript:
    """For any device."""
    return TorchScript()
