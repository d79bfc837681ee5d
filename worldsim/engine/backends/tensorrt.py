"""Torch-TensorRT: a part's exported graph built into a TensorRT engine.

Its limits: an NVIDIA GPU; an engine belongs to one GPU type, TensorRT version and set of shapes and is built at every
start; operators that it lacks run in PyTorch between engines; each torch-tensorrt release fits one torch minor version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part, first_line
from worldsim.errors import BackendError, MissingExtra


class TensorRT:
    """Builds one engine a part, in the part's own number formats."""

    name = "tensorrt"
    fixed_shapes = True

    def __init__(self) -> None:
        try:
            import torch_tensorrt
        except ImportError as error:
            raise MissingExtra("torch_tensorrt", "tensorrt") from error
        self._tensorrt = torch_tensorrt

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, built; see :class:`~worldsim.engine.backends.Backend`."""
        try:
            # Tensors of inference mode cannot be exported; copies made outside of it can.
            with torch.inference_mode(False), torch.no_grad():
                copies = tuple(x.clone() for x in example)
                exported = torch.export.export(part, copies, strict=False)
                built = self._tensorrt.dynamo.compile(
                    exported,
                    arg_inputs=copies,
                    use_explicit_typing=True,  # float32 islands, as softmax's, stay float32
                    truncate_double=True,
                    min_block_size=1,
                )
                built(*copies)
        except Exception as error:  # an engine builder can fail in a hundred ways
            raise BackendError(
                f"backend 'tensorrt' cannot build this world ({first_line(error)}): use backend=cudagraphs or inductor"
            ) from error

        def run(*arguments: Tensor) -> Any:
            made = built(*arguments)
            return tuple(made) if isinstance(made, list) else made

        return run


def make(device: torch.device) -> TensorRT:
    """For an NVIDIA GPU.

    Raises:
        BackendError: the device is another.
        MissingExtra: torch-tensorrt is not installed.
    """
    if device.type != "cuda":
        raise BackendError(
            f"backend 'tensorrt' needs an NVIDIA GPU, not device={device}: use backend=eager or inductor"
        )
    return TensorRT()
