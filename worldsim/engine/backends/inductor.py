"""torch.compile: generated C++ on a CPU, Triton on a GPU; compiled in the process that runs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part, first_line
from worldsim.errors import BackendError


class Inductor:
    """One graph a part, for fixed shapes, with the weights frozen into it.

    Frozen weights are packed once in the layout that the matrix products of the CPU like best.
    """

    name = "inductor"
    fixed_shapes = True

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, compiled; see :class:`~worldsim.engine.backends.Backend`."""
        compiled = torch.compile(part, fullgraph=True, dynamic=False, options={"freezing": True})

        try:
            compiled(*example)
        except Exception as error:  # a compiler can fail in a hundred ways
            raise BackendError(
                f"backend 'inductor' cannot compile here ({first_line(error)}): "
                "install a C++ compiler (apt install g++), or use backend=eager"
            ) from error
        run: Part = compiled
        return run


def make(device: torch.device) -> Inductor:
    """For any device."""
    return Inductor()
