"""Roll-out grids: held-out real play above what the world dreams under the same actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldsim.data.clips import ClipStore
from worldsim.engine.generators import open_world
from worldsim.world import Start, World


def roll_out_grid(
    world: World,
    store: ClipStore,
    prime: int,
    ticks: Sequence[int],
    rows: int,
    *,
    seed: int = 0,
    scale: int = 2,
) -> NDArray[np.uint8]:
    """Dream held-out clips on from their first ``prime`` frames and set both side by side.

    Args:
        world: The world to run.
        store: Held-out clips of at least ``prime + max(ticks)`` frames.
        prime: Real frames to start from.
        ticks: Which ticks after them to show, each at least 1.
        rows: Clips; each gives a strip of real frames and one of dreamed frames below it.
        seed: Of the clips and the noise.
        scale: Whole-number magnification.

    Returns:
        RGB picture, uint8 [h, w, 3].
    """
    clips = [store.draw(seed, 1, place)[0] for place in range(rows)]
    starts = [
        Start(f"clip {i}", clip.frames[:prime], clip.actions[: prime - 1], clip.since[prime - 1])
        for i, clip in enumerate(clips)
    ]
    generator = open_world(world, rows)
    generator.prime(starts, seed)
    dreamed, late = {}, generator.own_delay - 1
    for tick in range(1, max(ticks) + 1 + late):
        actions = np.array([clip.actions[min(prime - 2 + tick, len(clip.actions) - 1)] for clip in clips])
        dreamed[tick - late] = generator.render(actions)
        generator.commit()
    generator.close()
    strips = []
    for row, clip in enumerate(clips):
        strips.append(np.concatenate([clip.frames[prime - 1 + tick] for tick in ticks], 1))
        strips.append(np.concatenate([dreamed[tick][row] for tick in ticks], 1))
    return np.concatenate(strips, 0).repeat(scale, 0).repeat(scale, 1)
