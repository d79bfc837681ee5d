"""Sessions to be tested."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.engine.session import Session
from worldsim.world import World


def play(session: Session, ticks: int, seed: int = 0) -> NDArray[np.uint8]:
    """Frames [ticks, B, H, W, 3] under seeded random actions."""
    random = np.random.default_rng(seed)
    actions = random.integers(0, len(session.world.actions), (ticks, session.batch))
    return np.stack([session.step(action)[0] for action in actions])


def started(world: World, batch: int = 1, **settings: Any) -> Session:
    session = Session(world, batch, **settings)
    session.reset()
    return session
