"""Convolutions over grids of cells: what is the same wherever it happens is learned once.

Grids are [N, C, H, W] in channels-last memory: in any other layout the compiled element-wise kernels between two
convolutions take several times as long as the convolutions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import RMSNorm, attend

HEAD_DIM = 32  # values of each head of a grid's attention


class Conv(nn.Module):
    """Convolution with a square kernel, whose weight is one matrix [outputs, side * side * inputs], as Muon wants it.

    Args:
        inputs, outputs: Channels.
        side: 3 keeps the grid's size; 2 joins every 2x2 cells into one.
    """

    def __init__(self, inputs: int, outputs: int, side: int = 3) -> None:
        super().__init__()
        self.side = side
        bound = (side * side * inputs) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, side * side * inputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C', H, W] or, with side 2, [N, C', H / 2, W / 2]
        weight = self.weight.unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, stride=2 if self.side == 2 else 1, padding=self.side // 2 if self.side % 2 else 0)


class Upscale(nn.Module):
    """Every cell to 2x2 cells of its own; the weight is one matrix [inputs, 4 outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, 4 * outputs).uniform_(-(inputs**-0.5), inputs**-0.5))

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C', 2 H, 2 W]
        return F.conv_transpose2d(x, self.weight.unflatten(1, (2, 2, -1)).permute(0, 3, 1, 2), stride=2)


class ConvBlock(nn.Module):
    """Residual block of two convolutions, the first one's input modulated (as in DiT, arXiv 2212.09748).

    Without a norm: over channels it took longer than the convolutions, over the grid something far away would change
    it, and a net of a dozen layers under Muon needs none.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Conv(width, width)
        self.second = Conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:  # [N, C, H, W], [N, 2 C]
        seen = x if modulation is None else modulate(x, modulation)
        return x + self.second(F.relu(self.first(F.relu(seen))))


class GridAttention(nn.Module):
    """Attention among all places of a grid, by means of 2x2 cells, added to every cell (as in the U-Net of DDPM, arXiv
    2006.11239, at its coarse resolutions).

    What arrives tells where it comes from: values are turned as queries and keys are in rotary embeddings (RoFormer,
    arXiv 2104.09864, along rows and along columns), by the key's place and back by the query's, so that what is left is
    the offset (geometric transform attention, arXiv 2310.10375). A paddle that follows a ball must know how far above
    it is; with a learned bias for each offset instead, two to three times the error was left after as many steps
    (docs/experiments, the twenty-fourth Pong). Only offsets count, so squares of a frame teach what holds in all of it.
    At first it adds nothing.

    Args:
        width: Channels.
        heads: Of attention, of 32 values each.
        rows, columns: Of the largest grid; both even.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * HEAD_DIM, bias=False)
        self.query_norm = RMSNorm(HEAD_DIM, eps=1e-6)
        self.key_norm = RMSNorm(HEAD_DIM, eps=1e-6)
        self.out = nn.Linear(heads * HEAD_DIM, width, bias=False)
        nn.init.zeros_(self.out.weight)
        angles = place_angles(rows // 2, columns // 2, HEAD_DIM)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W], both sides even
        n, width, rows, columns = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
        tokens = F.avg_pool2d(x, 2).permute(0, 2, 3, 1).reshape(n, -1, width)
        query, key, value = self.qkv(tokens).view(n, -1, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        cos, sin = (at[:rows, :columns].reshape(rows * columns, -1).to(value.dtype) for at in (self.cos, self.sin))
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        mixed = attend(rotate(query, cos, sin), rotate(key, cos, sin), rotate(value, cos, sin))
        offsets = rotate(mixed, cos, -sin).transpose(1, 2).reshape(n, rows * columns, -1)
        grid = self.out(offsets).view(n, rows, columns, width).permute(0, 3, 1, 2)
        return x + F.interpolate(grid, scale_factor=2.0, mode="nearest")


def place_angles(rows: int, columns: int, dim: int) -> Tensor:
    """Angles float32 [rows, columns, dim / 2] of rotary embeddings in two dimensions, the first half by the row.

    The slowest turns less than a quarter from one end of the longer side to the other, so that no two offsets are
    alike; the fastest turns by half from one place to the next.
    """
    slowest = math.pi / 2 / max(rows, columns)
    speeds = torch.logspace(math.log10(slowest), math.log10(math.pi), dim // 4)
    down, right = torch.arange(rows)[:, None] * speeds, torch.arange(columns)[:, None] * speeds
    return torch.cat((down[:, None].expand(-1, columns, -1), right.expand(rows, -1, -1)), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of values, half a vector apart, turned by angles: x [..., D], cosines and sines [..., D / 2]."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


def modulate(x: Tensor, modulation: Tensor) -> Tensor:
    """``x * (1 + scale) + shift`` with shift and scale [N, 2 C], over [N, C, H, W]."""
    shift, scale = modulation[..., None, None].chunk(2, 1)
    return torch.addcmul(shift, x, 1 + scale)
