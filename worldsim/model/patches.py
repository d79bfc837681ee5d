"""Frames as patches and back, for every design alike."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.model.config import CELL, ModelConfig


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


def to_cells(patches: Tensor, config: ModelConfig, channels: int, side: int) -> Tensor:
    """Patches [N, L, ...], of squares of ``side`` values a cell, to cells [N, channels * side**2, H / 2, W / 2]."""
    cells = config.patch // CELL
    grid = patches.reshape(-1, config.rows, config.columns, cells, side, cells, side, channels)
    grid = grid.permute(0, 1, 3, 2, 5, 4, 6, 7)
    return grid.reshape(-1, config.rows * cells, config.columns * cells, channels * side**2).permute(0, 3, 1, 2)


def from_cells(cells: Tensor, config: ModelConfig, channels: int, side: int) -> Tensor:
    """What :func:`to_cells` makes of patches [N, L, ...], to these."""
    count = config.patch // CELL
    grid = cells.permute(0, 2, 3, 1).reshape(-1, config.rows, count, config.columns, count, side, side, channels)
    return grid.permute(0, 1, 3, 2, 5, 4, 6, 7).reshape(-1, config.tokens, (count * side) ** 2 * channels)
