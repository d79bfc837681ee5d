"""Recorded play for agents: what they may learn from, and where their dreams may begin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.agents.policy import STACK
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.envs.observation import grey
from worldsim.errors import RunError
from worldsim.settings import home
from worldsim.start import Start
from worldsim.world import World


def play_of(world: World, data: Path | None) -> Dataset:
    """Recorded play of a world's game.

    Args:
        world: Whose.
        data: Its folder; None: that of the world's name.

    Raises:
        DataError: there is none, or none that can be read.
        RunError: its frames or actions are others than the world's.
    """
    dataset = Dataset.open(data or home() / "data" / world.name, skip_bad=True)
    c, source = world.config.model, dataset.config["source"]
    same = tuple(dataset.actions.names) == tuple(world.actions.names)
    if not same or (source["height"], source["width"]) != (c.height, c.width):
        raise RunError(
            f"{dataset.folder} does not show what {world.name!r} does: record with size=[{c.height},{c.width}]"
        )
    return dataset


class Starts:
    """Moments anywhere in the part of recorded play that is trained on.

    Args:
        world: That is to dream on from them.
        data: See :func:`play_of`.
        repeat: Ticks between two decisions.
    """

    def __init__(self, world: World, data: Path | None, repeat: int) -> None:
        dataset = play_of(world, data)
        self._repeat, self._back = repeat, (STACK - 1) * repeat
        self._clips = ClipStore(dataset, dataset.train, max(world.config.model.window, self._back + 1))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[list[Start], Tensor]:
        """Some moments.

        Returns:
            Each as what a dream begins with, and the grey frames uint8 [count, 4, H, W] that a policy sees there.
        """
        clips = [self._clips[int(rng.integers(len(self._clips)))] for _ in range(count)]
        seen = np.stack([clip.frames[-1 - self._back :: self._repeat] for clip in clips])
        starts = [Start("recorded", clip.frames, clip.actions, clip.since[-1]) for clip in clips]
        return starts, grey(torch.from_numpy(seen))
