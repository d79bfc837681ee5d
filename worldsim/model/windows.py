"""Attention within windows of space and time, and within windows shifted by half (Swin, arXiv 2103.14030, in 3-D)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, GridConv, RMSNorm, attend
from worldsim.model.config import ModelConfig
from worldsim.model.token_decoder import modulate

SIZE = (4, 4, 4)  # frames, rows and columns of tokens, at most


class WindowAttention(nn.Module):
    """Attention among the tokens of one window of a clip, with QK-norm and a learned bias by place in it.

    A shifted grid of windows lets what lies on both sides of a border see each other; at the ends of a clip and of a
    frame its windows are smaller, as the mask sees to. Rows and columns of windows divide the frame; frames that are
    missing for a last window are masked.

    Args:
        config: Of the model.
        frames: Of every clip (T).
        shifted: By half a window, in all three directions.
    """

    index: Tensor
    apart: Tensor

    def __init__(self, config: ModelConfig, frames: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.frames = config.heads, frames
        self.grid = -(-frames // min(SIZE[0], frames)) * min(SIZE[0], frames), config.rows, config.columns
        self.size = (
            min(SIZE[0], frames),
            math.gcd(SIZE[1], config.rows),
            math.gcd(SIZE[2], config.columns),
        )
        self.shift = tuple(side // 2 if shifted and side < whole else 0 for side, whole in self._sides())
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.query_norm, self.key_norm = (RMSNorm(config.head_dim, eps=1e-6) for _ in range(2))
        self.place_bias = nn.Parameter(torch.zeros(math.prod(2 * side - 1 for side in self.size), config.heads))
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.register_buffer("index", self._index(), persistent=False)
        self.register_buffer("apart", self._apart(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, L, D] -> [B, T, L, D]
        b, t, length, dim = x.shape
        padded = F.pad(x, (0, 0, 0, 0, 0, self.grid[0] - t)).view(b, *self.grid, dim)
        moved = padded.roll([-by for by in self.shift], (1, 2, 3)) if any(self.shift) else padded
        seen = self._parted(moved)  # [B, windows, n, D]
        parts = self.qkv(seen).view(*seen.shape[:-1], 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(3, 0, 1, 4, 2, 5)  # 3 x [B, windows, h, n, hd]
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        bias = self.place_bias[self.index].permute(2, 0, 1) + self.apart.unsqueeze(1)  # [windows, h, n, n]
        mixed = attend(query, key, value, bias.to(value.dtype))
        made = self._joined(self.out(mixed.transpose(2, 3).reshape(seen.shape)))
        back = made.roll(self.shift, (1, 2, 3)) if any(self.shift) else made
        return back[:, :t].reshape(b, t, length, dim)

    def _sides(self) -> list[tuple[int, int]]:
        return list(zip(self.size, self.grid, strict=True))

    def _parted(self, grid: Tensor) -> Tensor:
        """[B, T, R, C, X] to windows [B, windows, n, X]."""
        (t, many), (r, rows), (c, columns) = self._sides()
        parts = grid.view(len(grid), many // t, t, rows // r, r, columns // c, c, -1)
        return parts.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(1, 3).flatten(2, 4)

    def _joined(self, windows: Tensor) -> Tensor:
        """The reverse of :meth:`_parted`."""
        (t, many), (r, rows), (c, columns) = self._sides()
        parts = windows.view(len(windows), many // t, rows // r, columns // c, t, r, c, -1)
        return parts.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(windows), many, rows, columns, -1)

    def _index(self) -> Tensor:
        """Where in the table the bias of a pair of places in a window is, int64 [n, n]."""
        places = torch.cartesian_prod(*(torch.arange(side) for side in self.size)).view(-1, 3)
        index = torch.zeros(len(places), len(places), dtype=torch.int64)
        for axis, side in enumerate(self.size):
            step = places[:, None, axis] - places[None, :, axis] + side - 1
            index = index * (2 * side - 1) + step
        return index

    def _apart(self) -> Tensor:
        """Bias [windows, n, n]: -inf between places that a shift has brought into one window, and to missing frames."""
        region = torch.zeros(1, *self.grid, 1)
        for axis, ((side, whole), shift) in enumerate(zip(self._sides(), self.shift, strict=True)):
            at = torch.arange(whole)  # after the roll: the last window holds the end and the beginning
            label = (at >= whole - side).long() + (at >= whole - shift).long() if shift else torch.zeros(whole).long()
            shape = [1, 1, 1, 1, 1]
            shape[axis + 1] = whole
            region = region * 3 + label.view(shape)
        there = (torch.arange(self.grid[0]) < self.frames).view(1, -1, 1, 1, 1).expand(1, *self.grid, 1)
        region, there = self._parted(region)[0, ..., 0], self._parted(there.roll(-self.shift[0], 1))[0, ..., 0]
        hidden = (region[:, :, None] != region[:, None, :]) | ~there[:, None, :]
        itself = torch.eye(hidden.shape[-1], dtype=torch.bool)  # a missing frame sees itself, or its softmax is NaN
        return torch.zeros(hidden.shape).masked_fill(hidden & ~itself, -torch.inf)


class WindowBlock(nn.Module):
    """Attention within windows, attention within shifted ones and MLP, each modulated by AdaLN-Zero.

    The attention of StreamDiT (arXiv 2507.03745), as a pair in each block: as many parameters as one of
    :class:`~worldsim.model.dit.DiTBlock` has.

    Args:
        config: Of the model.
        frames: Of every clip.
        modulations: Shift, scale and gate of each of the three.
    """

    def __init__(self, config: ModelConfig, frames: int, modulations: int) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.conv = GridConv(config.dim, config.rows, config.columns)
        self.plain, self.shifted = (WindowAttention(config, frames, shifted) for shifted in (False, True))
        self.mlp = MLP(config.dim, config.mlp_ratio)
        self.offset = nn.Parameter(torch.zeros(modulations * config.dim))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:  # [B, T, L, D], [B, T, 9 D] -> [B, T, L, D]
        parts = (modulation + self.offset).chunk(9, -1)
        seen = self.conv(modulate(self.norm(x), *parts[0:2]).flatten(0, 1)).view_as(x)
        x = torch.addcmul(x, parts[2].unsqueeze(-2), self.plain(seen))
        x = torch.addcmul(x, parts[5].unsqueeze(-2), self.shifted(modulate(self.norm(x), *parts[3:5])))
        return torch.addcmul(x, parts[8].unsqueeze(-2), self.mlp(modulate(self.norm(x), *parts[6:8])))
