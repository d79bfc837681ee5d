"""Telling networks what a game's frames usually show, before they learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from worldsim.data.clips import ClipStore
from worldsim.model.standard import Standard

_CLIPS = 200
_EVERY = 8  # frames of a clip, of which those between are much the same
_LEAST = 0.01  # spread, of a game in which next to nothing moves


def tell_standards(model: nn.Module, clips: ClipStore, seed: int) -> None:
    """Set the median frame and the spread of every part of a network that asks for them, in place.

    The median, because the mean shows a streak where a paddle goes up and down, which a network had to take away again
    wherever the paddle is not.

    Args:
        model: On any device; one without :class:`Standard` stays as it is.
        clips: Of recorded play.
        seed: Of the clips that are looked at.
    """
    standards = [part for part in model.modules() if isinstance(part, Standard)]
    if not standards:
        return
    frames = np.concatenate([clips.draw(seed, 0, place)[0].frames[::_EVERY] for place in range(_CLIPS)])
    shown = torch.from_numpy(frames).float().div_(127.5).sub_(1)
    median = torch.from_numpy(np.median(frames, 0).astype(np.float32)).div_(127.5).sub_(1)
    spread = max(_LEAST, float(shown.sub_(median).square_().mean().sqrt()))
    for part in standards:
        part.tell(median.to(part.median.device), spread)
