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

    A place tells others by what is there and by where they lie from it, one learned bias per head and offset (as in
    Swin, arXiv 2103.14030): a paddle that follows a ball must know whether it is above. So squares of a frame teach
    what holds in all of it. At first it adds nothing.

    Args:
        width: Channels.
        heads: Of attention; ``width`` is a multiple of it.
        rows, columns: Of the largest grid; both even.
    """

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.heads, self.rows, self.columns = heads, rows // 2, columns // 2
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = RMSNorm(width // heads, eps=1e-6)
        self.key_norm = RMSNorm(width // heads, eps=1e-6)
        self.offset_bias = nn.Parameter(torch.zeros(heads, 2 * self.rows - 1, 2 * self.columns - 1))
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W], both sides even
        n, width, rows, columns = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
        tokens = F.avg_pool2d(x, 2).permute(0, 2, 3, 1).reshape(n, -1, width)
        query, key, value = self.qkv(tokens).view(n, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        mixed = attend(query, key, value, self._bias(rows, columns)).transpose(1, 2).reshape(n, -1, width)
        grid = self.out(mixed).view(n, rows, columns, width).permute(0, 3, 1, 2)
        return x + F.interpolate(grid, scale_factor=2.0, mode="nearest")

    def _bias(self, rows: int, columns: int) -> Tensor:
        """Of every place's look at every other of a grid, [heads, rows * columns, rows * columns]."""
        down, right = (torch.arange(side, device=self.offset_bias.device) for side in (rows, columns))
        down, right = down - down[:, None] + self.rows - 1, right - right[:, None] + self.columns - 1
        each = self.offset_bias[:, down[:, None, :, None], right[None, :, None, :]]
        return each.reshape(self.heads, rows * columns, rows * columns)


def modulate(x: Tensor, modulation: Tensor) -> Tensor:
    """``x * (1 + scale) + shift`` with shift and scale [N, 2 C], over [N, C, H, W]."""
    shift, scale = modulation[..., None, None].chunk(2, 1)
    return torch.addcmul(shift, x, 1 + scale)
