"""What frames usually show, and how far they are from it: networks see the difference, in units of its spread."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import ModelConfig


class Standard(nn.Module):
    """The median of a game's frames, and the root mean square of what they are away from it.

    A game's frames are nearly all background. Of values in [-1, 1] a ball of two pixels moves what a fresh map of
    patches gives out by some hundredths, where a token's place moves it by a half; less the median frame, and over the
    spread, it moves it by about as much (docs/experiments/2026-11-30-thirty-ninth-standard.md). For networks that see
    levels of noise the scale is c_in of EDM (arXiv 2206.00364, table 1), with the spread for its sigma_data.

    Args:
        config: Of the model.
        margin: Pixels around a patch that are seen too.
    """

    median: Tensor
    spread: Tensor

    def __init__(self, config: ModelConfig, margin: int = 0) -> None:
        super().__init__()
        self.patch, self.margin = config.patch, margin
        self.register_buffer("median", torch.zeros(config.tokens, 3 * (config.patch + 2 * margin) ** 2))
        self.register_buffer("spread", torch.ones(()))

    @torch.no_grad()
    def tell(self, median: Tensor, spread: float) -> None:
        """Set both: the median frame [H, W, 3] in [-1, 1], around which is mid-grey, and the spread."""
        margin, side = self.margin, self._side
        framed = F.pad(median, (0, 0, margin, margin, margin, margin))
        patches = framed.unfold(0, side, self.patch).unfold(1, side, self.patch)  # [rows, columns, 3, side, side]
        self.median.copy_(patches.permute(0, 1, 3, 4, 2).reshape(self.median.shape))
        self.spread.fill_(spread)

    @property
    def frame(self) -> Tensor:
        """The median frame's patches [L, P]."""
        inner = slice(self.margin, self.margin + self.patch)
        return self.median.unflatten(-1, (self._side, self._side, 3))[:, inner, inner].flatten(-3)

    @property
    def _side(self) -> int:
        return self.patch + 2 * self.margin

    def views(self, views: Tensor) -> Tensor:
        """Views [..., L, V], of which the first values are a frame's patches with margin and the others changes."""
        size = self.median.shape[-1]
        centred = torch.cat((views[..., :size] - self.median, views[..., size:]), -1)
        return (centred / self.spread).to(views.dtype)

    def noisy(self, patches: Tensor, t: Tensor) -> Tensor:
        """Frames [..., L, P] at noise levels t [...], whose values are about as large at any level."""
        t = t[..., None, None]
        scale = (((1 - t) * self.spread).square() + t.square()).rsqrt()
        return ((patches - (1 - t) * self.frame) * scale).to(patches.dtype)

    def whole(self, made: Tensor) -> Tensor:
        """What was foretold [..., L, P], as a frame."""
        return (made + self.frame).to(made.dtype)
