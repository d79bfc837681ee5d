"""Where a roll-out starts, and how its memory is filled from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldsim.engine.cache import Cache
from worldsim.errors import StartError
from worldsim.model.world_model import WorldModel
from worldsim.world import Start, World

#: What a row can start from: a start of the world by name or number, "episode" or None (one at an episode's
#: beginning, drawn by the row's own generator), a start of one's own, or its (frames, actions).
StartLike = Start | str | int | tuple[Any, Any] | None


def choose_start(world: World, start: StartLike, generator: torch.Generator) -> Start:
    """The start that is meant, checked against the world.

    Raises:
        StartError: an unknown start, or frames and actions that do not fit this world.
    """
    if start is None or (isinstance(start, str) and start == "episode"):
        choices = world.episode_starts
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]
    if isinstance(start, tuple):
        if len(start) != 2:
            raise StartError(f"a start of one's own is (frames, actions), not a tuple of {len(start)}")
        start = Start("given", *start)
    return world.find_start(start)


def prime(model: WorldModel, cache: Cache, patches: Tensor, trails: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Feed real frames and actions to the encoder, one frame at a time as if they had been played.

    Args:
        model: The cache's model.
        cache: Of n rows, written to.
        patches: [n, N, L, P].
        trails: int64 [n, N], of the actions that led to each, see :mod:`worldsim.model.trail`.
        level: int64 [n], context-noise bucket that the encoder is told of.

    Returns:
        Context [n, L, D] and view [n, L, V] of the last frame.
    """
    views = model.views(patches)
    for t in range(views.shape[1]):
        led = trails[:, t]
        context, key, value = model.encode_step(views[:, t], led, level, cache.keys, cache.values, cache.bias())
        cache.write(key, value)
    return context, views[:, -1]
