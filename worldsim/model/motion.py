"""Where things will be if they go on as they went: an estimate that needs no weights, for the networks to correct."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldsim.model.config import ModelConfig

SHARPNESS = 24.0  # of the choice among displacements; their scores are at most about 1
FEW = 256  # looked at together: one product of copies instead of one a displacement, of which each costs a start
UNSEEN = 0.25  # energy of a change, summed over values in [-1, 1], that is as good as none


def toeplitz(rows: int, taps: int) -> Tensor:
    """Constants [taps, rows * columns], columns = rows + taps - 1, that make of a kernel the matrix which applies it,
    and, transposed, of a matrix the sums along its diagonals.
    """
    band = torch.zeros(taps, rows, rows + taps - 1)
    for i in range(rows):
        band[torch.arange(taps), i, i + torch.arange(taps)] = 1
    return band.flatten(1)


class Carry(nn.Module):
    """Moves what is around a patch into it, by a choice among displacements within the margin."""

    bands: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch, self.taps = config.patch, 2 * config.margin + 1
        self.register_buffer("bands", toeplitz(config.patch, self.taps), persistent=False)

    def forward(self, chances: Tensor, around: Tensor) -> Tensor:
        """The mean of what arrives.

        Args:
            chances: Of displacements, by columns first [M, taps * taps]; the middle one is none.
            around: Patches with their margin [M, side, 3 side].

        Returns:
            [M, patch, 3 patch].
        """
        p, taps = self.patch, self.taps
        chances = chances.view(-1, taps, taps)
        bands = (chances @ self.bands.to(chances.dtype)).view(-1, taps, p, p + taps - 1)
        if len(around) <= FEW:
            moved = around.unfold(2, 3 * p, 3).transpose(1, 2).flatten(1, 2)  # [M, taps * side, 3 patch]
            return bands.transpose(1, 2).flatten(2) @ moved
        total = bands[:, 0] @ around[..., : 3 * p]
        for k in range(1, taps):
            total = total + bands[:, k] @ around[..., 3 * k : 3 * (k + p)]
        return total


class MotionExtrapolation(nn.Module):
    """The next change of each patch, if what has just changed around it goes on in a straight line.

    Video codecs and frame interpolation estimate motion by matching blocks; this does it for the *changes* around
    each patch, because a background fits itself at every displacement. With a change d that fits the frame before at
    displacements -v, the next change is d moved by v: it draws the thing where it goes and takes it away where it is.
    A network can learn this too, but only for each place, speed and sub-pixel phase by itself (docs/experiments).

    Only the tokens around which most has changed are looked at. Displacements reach as far as the margin: 4 pixels a
    tick for a margin of 4. A thing of which a token sees a part at its border may be moved along itself.
    """

    diagonals: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.taps = 2 * config.margin + 1
        self.tokens = min(config.extrapolated, config.tokens)
        side = config.patch + 2 * config.margin
        self.register_buffer("diagonals", toeplitz(side, self.taps).T.contiguous(), persistent=False)
        self.carry = Carry(config)

    def forward(self, change: Tensor, before: Tensor) -> Tensor:
        """The change that is due.

        Args:
            change: Of each patch and its margin since the frame before [N, L, side * side * 3].
            before: The frame before less its mean colour, each patch with twice the margin
                [N, rows, columns, wide, wide * 3].

        Returns:
            Patches [N, L, P], to be added to those of the frame; 0 where least has changed.
        """
        busy, chances = self.match(change, before)
        new = change.gather(1, busy[..., None].expand(-1, -1, change.shape[-1]))
        moved = self.carry(chances.flatten(0, 1), new.view(-1, *square(new)))
        due = change.new_zeros(*change.shape[:2], moved[0].numel())
        return due.scatter(1, busy[..., None].expand(-1, -1, due.shape[-1]), moved.view(*busy.shape, -1))

    def match(self, change: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """By which displacements changes came from the frame before; see :meth:`forward`.

        Returns:
            Numbers of the tokens around which most has changed [N, k], and chances [N, k, taps * taps].
        """
        taps, columns = self.taps, before.shape[2]
        energy, busy = change.float().square().sum(-1).topk(self.tokens, sorted=False)  # [N, tokens]
        new = change.gather(1, busy[..., None].expand(-1, -1, change.shape[-1]))
        new = new.view(-1, *square(new))  # [M, rows, columns and colours]
        frame = torch.arange(len(busy), device=busy.device)[:, None]
        old = before[frame, busy // columns, busy % columns].flatten(0, 1)
        # A displacement along columns is a slice, one along rows a diagonal of what the slices' rows have in common.
        fits = self._products(new, old)  # [M, taps, side * wide]
        scores = (fits @ self.diagonals.to(new.dtype)).flatten(1).float()  # [M, taps * taps]
        certain = SHARPNESS / (energy.view(-1, 1) + UNSEEN)
        chances = (certain * scores).softmax(-1).to(new.dtype).view(*busy.shape, taps * taps)
        return busy, chances

    def _products(self, new: Tensor, old: Tensor) -> Tensor:
        """Of the rows of ``new`` [M, side, 3 side] with those of ``old`` [M, wide, 3 wide], column by column moved on:
        [M, taps, side * wide].
        """
        taps, side = self.taps, new.shape[1]
        if len(new) <= FEW:
            moved = old.unfold(2, 3 * side, 3).transpose(1, 2).flatten(1, 2)  # [M, taps * wide, 3 side]
            fits = (moved @ new.transpose(1, 2)).unflatten(1, (taps, -1))
            return fits.transpose(2, 3).flatten(2)
        return torch.stack([new @ old[..., 3 * k : 3 * (k + side)].transpose(1, 2) for k in range(taps)], 1).flatten(2)


def square(patches: Tensor) -> tuple[int, int]:
    """Rows, and columns times colours, of patches with a margin [..., side * side * 3]."""
    side = math.isqrt(patches.shape[-1] // 3)
    return side, 3 * side
