"""Pasts that do not show what a dream may lose, so that it learns to show it again.

Recorded play never lacks a player's paddle, so a decoder learns nothing of what to do without one. In a dream it may
slip over the border or fade within a tick, and then it is gone for good: nothing in the past tells of it. Of eight
dreams of Pong under random keys three had lost it so within forty seconds
(docs/experiments/2026-11-30-thirty-sixth-erased.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.model.world_model import WorldModel
from worldsim.training.kept import Frames
from worldsim.vision.colours import ColourReader


class Eraser:
    """Takes things out of what is shown of the past. What followed stays as it was recorded.

    Args:
        model: For its patches.
        reader: Sees the things.
        names: Which of them. One that recorded play lacks at times (a ball after a point) would be drawn then, too.

    Raises:
        SourceError: no such thing is told by its colour.
    """

    def __init__(self, model: WorldModel, reader: ColourReader, names: Sequence[str]) -> None:
        self._model, self._reader, self._names = model, reader, tuple(names)
        reader.unmixing(self._names)  # asks whether it knows them

    def erase(self, rng: np.random.Generator, frames: Frames, share: float) -> tuple[Frames, NDArray[np.bool_]]:
        """Take the things out of the past of some frames.

        Of half of these it shows them nowhere, of the others not in its last few frames, as many as may be.

        Args:
            rng: Draws which.
            frames: N of them.
            share: Of them, those.

        Returns:
            The frames, and which they are, bool [N].
        """
        count, history = frames.past.shape[:2]
        chosen = rng.permutation(count) < round(share * count)
        past = frames.past.clone()
        for at in np.flatnonzero(chosen).tolist():
            last = history if rng.random() < 0.5 else int(rng.integers(1, history + 1))
            shown = self._model.unpatchify(past[at, -last:]).cpu().numpy()
            past[at, -last:] = self._model.patchify(torch.from_numpy(self._reader.without(shown, self._names))).to(past)
        return replace(frames, past=past), chosen
