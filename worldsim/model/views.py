"""What networks see of a frame: its patches with what lies around them, how they came about, and where it leads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.model.config import ModelConfig
from worldsim.model.decoder import without_margin
from worldsim.model.motion import MotionExtrapolation


class Views(nn.Module):
    """Views of frames, one after the other or of whole clips at once; nothing in them is learned."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.motion = MotionExtrapolation(config) if config.extrapolated else None

    def view(self, patches: Tensor, before: Tensor | None) -> Tensor:
        """What the networks see of a frame: each patch with its margin, how it changed, now and before, and how it will
        if all goes on.

        Speed is in the change: from single frames the network must find it by attention, and learns the few paths
        of a served ball by heart instead. What enters a patch within a frame is in the margin: without it, a fast ball
        was lost at the patches' borders (docs/experiments).

        Args:
            patches: [..., L, P] in [-1, 1].
            before: View of the frame before [..., L, V]; None if there was none, which is as if it had been the same.

        Returns:
            [..., L, V].
        """
        c = self.config
        seen = self._with_margin(patches, c.margin)
        if before is None:
            older = [torch.zeros_like(patches)] * (c.history - 2)
            return self._joined(seen, torch.zeros_like(seen), older, patches)
        past, change = (before[..., at : at + c.seen_dim] for at in (0, c.seen_dim))
        older = [without_margin(change, c), *before[..., 2 * c.seen_dim :].split(c.patch_dim, -1)][: c.history - 2]
        return self._joined(seen, seen - past, older, without_margin(past, c))

    def view_of(self, past: Tensor) -> Tensor:
        """As :meth:`view`, from patches of the last frames [..., history, L, P], the newest last."""
        margin, frames = self.config.margin, past.unbind(-3)[::-1]
        last, *older = (one - other for one, other in zip(frames, frames[1:], strict=False))
        return self._joined(self._with_margin(frames[0], margin), self._with_margin(last, margin), older, frames[1])

    def views(self, patches: Tensor) -> Tensor:
        """The views [B, T, L, V] of whole clips [B, T, L, P]."""
        margin, last = self.config.margin, torch.cat((patches[:, :1], patches[:, :-1]), 1)
        changes = [patches - last]
        for _ in range(self.config.history - 2):
            changes.append(torch.cat((torch.zeros_like(last[:, :1]), changes[-1][:, :-1]), 1))
        change = self._with_margin(changes[0], margin)
        return self._joined(self._with_margin(patches, margin), change, changes[1:], last)

    def _joined(self, seen: Tensor, change: Tensor, older: Sequence[Tensor], last: Tensor) -> Tensor:
        """A view of patches and their change with margin [..., L, X], earlier changes [..., L, P], and the patches
        [..., L, P] that came before.
        """
        parts = [seen, change, *older]
        if self.motion is not None:
            flat = last.reshape(-1, *last.shape[-2:])
            due: Tensor = self.motion(change.reshape(-1, *change.shape[-2:]), self._surroundings(flat))
            parts.append(due.view_as(last))
        return torch.cat(parts, -1)

    def _surroundings(self, last: Tensor) -> Tensor:
        """Frames [N, L, P] less their mean colours, each patch with twice the margin: [N, rows, columns, wide, 3 wide]
        with the margin on all sides.
        """
        pixels = last.reshape(*last.shape[:-2], -1, 3)
        centred = (pixels - pixels.mean(-2, keepdim=True)).view_as(last)  # keeps sums of products small
        margin = 2 * self.config.margin
        return self._wide(self._framed(centred, margin), margin)

    def _with_margin(self, patches: Tensor, margin: int) -> Tensor:
        """Patches [..., L, P] to patches with a margin [..., L, X]; around the frame it is 0, mid-grey."""
        return self._wide(self._framed(patches, margin), margin).reshape(*patches.shape[:-1], -1)

    def _framed(self, patches: Tensor, margin: int) -> Tensor:
        """Patches [..., L, P] to frames [..., H + 2 m, 3 (W + 2 m)] with a margin m around them."""
        c = self.config
        # Compiled for a CPU, a pad in place of the joins, or more dimensions than needed, is many times slower.
        grid = patches.reshape(*patches.shape[:-2], c.rows, c.columns, c.patch, 3 * c.patch)
        frames = grid.transpose(-3, -2).reshape(*patches.shape[:-2], c.height, 3 * c.width)
        left = frames.new_zeros(*frames.shape[:-1], 3 * margin)
        frames = torch.cat((left, frames, left), -1)
        top = frames.new_zeros(*frames.shape[:-2], margin, frames.shape[-1])
        return torch.cat((top, frames, top), -2)

    def _wide(self, frames: Tensor, margin: int) -> Tensor:
        """Framed frames to every patch with its margin [..., rows, columns, side, 3 side]; nothing is copied."""
        c = self.config
        side = c.patch + 2 * margin
        row = frames.ndim - 2  # OpenVINO 2026.4 does not convert a second unfold of a dimension counted from the end
        return frames.unfold(row, side, c.patch).unfold(row + 1, 3 * side, 3 * c.patch)
