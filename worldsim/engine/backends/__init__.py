"""Backends: what runs the arithmetic of a tick. One small interface, a file for each, imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldsim.errors import BackendError
from worldsim.schema import nearest

#: Backends by name, with what each needs.
BACKENDS = {
    "eager": "PyTorch as it is; starts at once, everywhere",
    "torchscript": "traced, and run without Python; no compiler",
    "int8": "as torchscript, with products of attention and MLPs in eight bits; an x86 CPU, no compiler",
    "inductor": "torch.compile; needs a C++ compiler (on a GPU, Triton)",
    "aoti": "torch.export and AOTInductor: compiled once with a C++ compiler, kept on disk, loaded without one",
    "openvino": "OpenVINO; a CPU, no compiler: pip install 'worldsim[openvino]'",
    "cudagraphs": "a recorded CUDA graph; an NVIDIA GPU",
    "tensorrt": "Torch-TensorRT; an NVIDIA GPU: pip install 'worldsim[tensorrt]'",
}

#: A pure part of a tick, ready to run: the same arguments and results as its module.
Part = Callable[..., Any]


class Backend(Protocol):
    """Makes modules of :mod:`worldsim.engine.parts` run fast.

    Attributes:
        name: As in :data:`BACKENDS`.
        fixed_shapes: A prepared part takes only the shapes and dtypes of its example.
    """

    name: str
    fixed_shapes: bool

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, compiled for arguments like ``example`` and run on them at least once, in inference mode.

        Raises:
            BackendError: it cannot be compiled here; the message names the fix.
        """
        ...


def load_backend(name: str, device: torch.device) -> Backend:
    """The backend called ``name``, for a device.

    Raises:
        BackendError: no such backend, or it cannot work here.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}{nearest(name, tuple(BACKENDS))}: there is {', '.join(BACKENDS)}")
    made: Backend = import_module(f"worldsim.engine.backends.{name}").make(device)
    return made


def first_line(error: BaseException) -> str:
    """What went wrong, in one line: compilers write pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
