"""A recorded CUDA graph: hundreds of small kernels launched as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part
from worldsim.errors import BackendError

_WARM_UP = 3  # runs on a side stream before recording, as PyTorch's CUDA-graphs notes ask


class CudaGraphs:
    """Records a part once and replays it on fixed buffers.

    A replay writes the same result buffers every time: they are copied out, since a session keeps results.
    """

    name = "cudagraphs"
    fixed_shapes = True

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, recorded; see :class:`~worldsim.engine.backends.Backend`."""
        with torch.inference_mode():
            arguments = tuple(x.clone() for x in example)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    part(*arguments)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results = part(*arguments)

        def run(*given: Tensor) -> Any:
            for buffer, tensor in zip(arguments, given, strict=True):
                if buffer.data_ptr() != tensor.data_ptr():
                    buffer.copy_(tensor)
            graph.replay()
            return results.clone() if isinstance(results, Tensor) else tuple(result.clone() for result in results)

        return run


def make(device: torch.device) -> CudaGraphs:
    """For an NVIDIA GPU.

    Raises:
        BackendError: the device is another.
    """
    if device.type != "cuda":
        raise BackendError(
            f"backend 'cudagraphs' needs an NVIDIA GPU, not device={device}: use backend=eager or inductor"
        )
    return CudaGraphs()
