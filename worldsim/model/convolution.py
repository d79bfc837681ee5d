"""Convolutions over grids of cells: what is the same wherever it happens is learned once.

Grids are [N, C, H, W] in channels-last memory: in any other layout the compiled element-wise kernels between two
convolutions take several times as long as the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import RMSNorm, attend


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

    It tells no place from another but by what is there, so that it can learn from squares, and adds nothing at first.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = RMSNorm(width // heads, eps=1e-6)
        self.key_norm = RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W], both sides even
        n, width, rows, columns = x.shape
        tokens = F.avg_pool2d(x, 2).permute(0, 2, 3, 1).reshape(n, -1, width)
        query, key, value = self.qkv(tokens).view(n, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        mixed = attend(query, key, value).transpose(1, 2).reshape(n, -1, width)
        grid = self.out(mixed).view(n, rows // 2, columns // 2, width).permute(0, 3, 1, 2)
        return x + F.interpolate(grid, scale_factor=2.0, mode="nearest")


def modulate(x: Tensor, modulation: Tensor) -> Tensor:
    """``x * (1 + scale) + shift`` with shift and scale [N, 2 C], over [N, C, H, W]."""
    shift, scale = modulation[..., None, None].chunk(2, 1)
    return torch.addcmul(shift, x, 1 + scale)
