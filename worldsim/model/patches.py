"""Frames as patches and back, for every design alike."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.model.config import ModelConfig


def patchify(frames: Tensor, config: ModelConfig) -> Tensor:
    """Frames [..., H, W, 3] to patches [..., L, P]."""
    c = config
    grid = frames.reshape(*frames.shape[:-3], c.rows, c.patch, c.columns, c.patch, 3)
    return grid.transpose(-4, -3).reshape(*frames.shape[:-3], c.tokens, c.patch_dim)


def unpatchify(patches: Tensor, config: ModelConfig) -> Tensor:
    """Patches [..., L, P] to frames [..., H, W, 3]."""
    c = config
    grid = patches.reshape(*patches.shape[:-2], c.rows, c.columns, c.patch, c.patch, 3)
    return grid.transpose(-4, -3).reshape(*patches.shape[:-2], c.height, c.width, 3)


def shown(patches: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 patches to values in [-1, 1]."""
    return patches.float().div(127.5).sub(1).to(dtype)


def to_uint8(patches: Tensor) -> Tensor:
    """Values in [-1, 1] to uint8, as they are shown; what lies outside is clipped."""
    return patches.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
