"""Where things will be if they go on as they went: an estimate that needs no weights, for the networks to correct."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import ModelConfig

SHARPNESS = 24.0  # of the choice among displacements; their scores are at most about 1
FEW = 256  # looked at together: one product of copies instead of one a displacement, of which each costs a start
BLUR = 0.25  # squared error, summed over values in [-1, 1], by which one displacement is not better than another
CERTAIN = 8.0  # logarithm of how much likelier than an impossible displacement the likeliest one is told to be
TREMBLE = 0.5  # energy of a change in a patch that may be no thing's motion: made frames tremble
UNSEEN = 0.25  # energy of a change, summed over values in [-1, 1], that is as good as none


def toeplitz(rows: int, taps: int) -> Tensor:
    """Constants [taps, rows * columns], columns = rows + taps - 1, that make of a kernel the matrix which applies it,
    and, transposed, of a matrix the sums along its diagonals.
    """
    band = torch.zeros(taps, rows, rows + taps - 1)
    for i in range(rows):
        band[torch.arange(taps), i, i + torch.arange(taps)] = 1
    return band.flatten(1)


def without_margin(seen: Tensor, config: ModelConfig) -> Tensor:
    """Patches with their margin [..., X] to patches [..., P]."""
    side, inner = config.patch + 2 * config.margin, slice(config.margin, config.margin + config.patch)
    return seen.unflatten(-1, (side, side, 3))[..., inner, inner, :].flatten(-3)


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


class Displace(nn.Module):
    """Moves what is around a patch into it, by chances of columns and of rows that do not know of each other: two
    products instead of :class:`Carry`'s many, for where a displacement was chosen and is no mixture.
    """

    bands: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch, self.side = config.patch, config.patch + 2 * config.margin
        self.register_buffer("bands", toeplitz(config.patch, 2 * config.margin + 1), persistent=False)

    def forward(self, columns: Tensor, rows: Tensor, around: Tensor) -> Tensor:
        """The mean of what arrives.

        Args:
            columns, rows: Chances of displacements [M, taps]; the middle one is none.
            around: Patches with their margin [M, side * side * 3].

        Returns:
            [M, P].
        """
        p, side, bands = self.patch, self.side, self.bands.to(rows.dtype)
        across, down = ((chances @ bands).view(-1, p, side) for chances in (columns, rows))
        moved = down @ around.view(-1, side, 3 * side)  # [M, patch, side and colours]
        moved = moved.view(-1, p, side, 3).transpose(2, 3).reshape(-1, 3 * p, side) @ across.transpose(1, 2)
        return moved.view(-1, p, 3, p).transpose(2, 3).flatten(1)

    def best(self, around: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """By which displacements a patch becomes its target: block matching, softly.

        Args:
            around: Patches with their margin [M, side * side * 3].
            target: [M, P].

        Returns:
            Chances of columns and of rows, float32 [M, 2 taps], and how much of the change they explain [M]: 1 if the
            target is the patch moved, 0 if standing still is as good.
        """
        p, side, taps = self.patch, self.side, self.side - self.patch + 1
        old, new = around.float().view(-1, side, 3 * side), target.float().view(-1, p, 3 * p)
        rows = torch.stack([new @ old[..., 3 * k : 3 * (k + p)].transpose(1, 2) for k in range(taps)], 1)
        common = rows.flatten(2) @ self.bands.float().T  # [M, taps, taps], columns first
        squares = old.view(-1, 1, side, side, 3).square().sum(-1)
        squares = F.avg_pool2d(squares, p, 1)[:, 0].transpose(1, 2) * p * p
        off = (new.square().sum((1, 2))[:, None, None] + squares - 2 * common).clamp_min(0)  # [M, taps, taps]
        still, least = off[:, taps // 2, taps // 2], off.flatten(1).min(-1).values
        chances = (-(off - least[:, None, None]) / BLUR).flatten(1).softmax(-1)
        return marginals(chances), (still - least) / (still + UNSEEN)


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

    def forward(self, change: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The change that is due, and the displacements that it goes by.

        Args:
            change: Of each patch and its margin since the frame before [N, L, side * side * 3].
            before: The frame before less its mean colour, each patch with twice the margin
                [N, rows, columns, wide, wide * 3].

        Returns:
            Patches [N, L, P], to be added to those of the frame; 0 where least has changed. And [N, L, 2 taps], for
            columns and for rows: :data:`CERTAIN` times this is a logarithm of chances; 1 for the likeliest
            displacement, 0 for impossible ones, and for any but none where least has changed.
        """
        busy, _, chances = self.match(change, before)
        new = change.gather(1, busy[..., None].expand(-1, -1, change.shape[-1]))
        moved = self.carry(chances.flatten(0, 1), new.view(-1, *square(new)))
        due = change.new_zeros(*change.shape[:2], moved[0].numel())
        due = due.scatter(1, busy[..., None].expand(-1, -1, due.shape[-1]), moved.view(*busy.shape, -1))
        told = marginals(chances).float().clamp_min(math.exp(-CERTAIN)).log().div(CERTAIN).add(1).to(change.dtype)
        still = change.new_zeros(2, self.taps)
        still[:, self.taps // 2] = 1
        match = still.flatten().expand(*change.shape[:2], -1)
        return due, match.scatter(1, busy[..., None].expand(-1, -1, 2 * self.taps), told)

    def match(self, change: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By which displacements changes came from the frame before; see :meth:`forward`.

        Returns:
            Numbers of the tokens around which most has changed [N, k], how much [N, k], and chances
            [N, k, taps * taps].
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
        return busy, energy, chances

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


def marginals(chances: Tensor) -> Tensor:
    """Chances of displacements, columns first [..., taps * taps], to those of columns and of rows [..., 2 taps]."""
    taps = math.isqrt(chances.shape[-1])
    both = chances.unflatten(-1, (taps, taps))
    return torch.cat((both.sum(-1), both.sum(-2)), -1)


def square(patches: Tensor) -> tuple[int, int]:
    """Rows, and columns times colours, of patches with a margin [..., side * side * 3]."""
    side = math.isqrt(patches.shape[-1] // 3)
    return side, 3 * side
