"""PyTorch as it is: the reference that every other backend is checked against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part


class Eager:
    """Runs a part's module itself."""

    name = "eager"
    fixed_shapes = False

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The module."""
        return part


def make(device: torch.device) -> Eager:
    """For any device."""
    return Eager()
