"""Where things will be if they go on as they went: an estimate that needs no weights, for the networks to correct."""

from __future__ import annotations

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


def without_margin(seen: Tensor, config: ModelConfig) -> Tensor:
    """Patches with their margin [..., X] to patches [..., P]."""
    side, inner = config.patch + 2 * config.margin, slice(config.margin, config.margin + config.patch)
    return seen.unflatten(-1, (side, side, 3))[..., inner, inner, :].flatten(-3)


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
    bands: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch, self.margin, self.taps = config.patch, config.margin, 2 * config.margin + 1
        self.tokens = min(config.extrapolated, config.tokens)
        side = self.patch + 2 * self.margin
        self.register_buffer("diagonals", toeplitz(side, self.taps).T.contiguous(), persistent=False)
        self.register_buffer("bands", toeplitz(self.patch, self.taps), persistent=False)

    def forward(self, change: Tensor, before: Tensor) -> Tensor:
        """The change that is due.

        Args:
            change: Of each patch and its margin since the frame before [N, L, side * side * 3].
            before: The frame before less its mean colour, each patch with twice the margin
                [N, rows, columns, wide, wide * 3].

        Returns:
            Patches [N, L, P], to be added to those of the frame; 0 where least has changed.
        """
        p, side, taps, columns = self.patch, self.patch + self.taps - 1, self.taps, before.shape[2]
        energy, busy = change.float().square().sum(-1).topk(self.tokens, sorted=False)  # [N, tokens]
        new = change.gather(1, busy[..., None].expand(-1, -1, change.shape[-1]))
        new = new.view(-1, side, side * 3)  # [M, rows, columns and colours]
        frame = torch.arange(len(busy), device=busy.device)[:, None]
        old = before[frame, busy // columns, busy % columns].flatten(0, 1)
        # A displacement along columns is a slice, one along rows a diagonal of what the slices' rows have in common.
        fits = self._products(new, old)  # [M, taps, side * wide]
        scores = (fits @ self.diagonals.to(new.dtype)).flatten(1).float()  # [M, taps * taps]
        certain = SHARPNESS / (energy.view(-1, 1) + UNSEEN)
        weights = (certain * scores).softmax(-1).to(new.dtype).view(-1, taps, taps)
        moved = self._sums((weights @ self.bands.to(new.dtype)).view(-1, taps, p, side), new)
        due = change.new_zeros(*change.shape[:2], moved[0].numel())
        return due.scatter(1, busy[..., None].expand(-1, -1, due.shape[-1]), moved.view(*busy.shape, -1))

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

    def _sums(self, bands: Tensor, new: Tensor) -> Tensor:
        """Over k of band k [M, patch, side] on the columns of ``new`` [M, side, 3 side] from k on: [M, patch, 3 patch].
        """
        p, taps = self.patch, self.taps
        if len(new) <= FEW:
            moved = new.unfold(2, 3 * p, 3).transpose(1, 2).flatten(1, 2)  # [M, taps * side, 3 patch]
            return bands.transpose(1, 2).flatten(2) @ moved
        total = bands[:, 0] @ new[..., : 3 * p]
        for k in range(1, taps):
            total = total + bands[:, k] @ new[..., 3 * k : 3 * (k + p)]
        return total
