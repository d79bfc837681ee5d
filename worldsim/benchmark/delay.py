"""How late an action shows, by intervention: the same noise twice, one action differs, where do the frames part?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.engine.generators import FrameGenerator
from worldsim.start import Start


@dataclass(frozen=True)
class Delay:
    """Ticks from an action to frames; 1 is the very next one.

    Attributes:
        own: To the frame that is conditioned on the action.
        first, most: To the first frame that differed at all, in the tick where that came soonest and latest. Where
            frames made together see those after them, a trace of an action shows before its own frame.
    """

    own: int
    first: int
    most: int

    def facts(self) -> dict[str, int]:
        """As facts of a benchmark's cell."""
        return {"delay_own": self.own, "delay_first": self.first, "delay_most": self.most}


def response_delay(
    generator: FrameGenerator, start: Start, actions: int, batch: int = 1, seed: int = 0
) -> Delay | None:
    """Measure a design's delay.

    Args:
        generator: Primed anew for each roll-out.
        start: Where roll-outs begin.
        actions: Number of actions, 2 at least.
        batch: The generator's rows.
        seed: Of the actions and the noise.

    Returns:
        None if an action changed nothing, as in a network that was not trained.
    """
    own = generator.own_delay
    ticks = 4 * own + 4
    played = np.random.default_rng(seed).integers(0, actions, (ticks, batch))
    straight = _roll_out(generator, start, played, seed)
    found = []
    for at in range(own, 2 * own):  # every place in a chunk
        other = played.copy()
        other[at] = (other[at] + max(1, actions // 2)) % actions  # far off in the table: neighbours may do the same
        parted = (_roll_out(generator, start, other, seed) != straight).any((1, 2, 3, 4))
        where = np.flatnonzero(parted)
        if not len(where):
            return None
        found.append(int(where[0]) - at + 1)
    return Delay(own, min(found), max(found))


def _roll_out(generator: FrameGenerator, start: Start, actions: np.ndarray, seed: int) -> np.ndarray:
    generator.prime(start, seed)
    frames = []
    for now in actions:
        frames.append(generator.render(now))
        generator.commit()
    return np.stack(frames)
