"""Real frames and actions that a roll-out continues from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import StartError
from worldsim.model.config import ModelConfig

LONGEST = 2**31  # ticks since a reward


@dataclass(frozen=True, eq=False)
class Start:
    """Real frames and actions that a roll-out continues from.

    Attributes:
        name: ``"episode..."`` for one at an episode's beginning.
        frames: uint8 [N, H, W, 3].
        actions: int64 [N-1]; action t was taken between frames t and t+1.
        since: The last reward at the last frame, its sign times the ticks since, 1 where it came with that frame; 0:
            none is known. See :func:`~worldsim.model.cue.since_rewards`.

    Raises:
        StartError: wrong dtypes, shapes or lengths.
    """

    name: str
    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    since: int = 0

    def __post_init__(self) -> None:
        frames, actions = np.asarray(self.frames), np.asarray(self.actions)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            given = f"{frames.dtype} {list(frames.shape)}"
            raise StartError(f"start {self.name!r}: frames must be uint8 [N, height, width, 3], N >= 1, not {given}")
        if actions.dtype.kind not in "iu" and actions.size:
            raise StartError(f"start {self.name!r}: actions must be whole numbers, not {actions.dtype}")
        if actions.shape != (len(frames) - 1,):
            wanted = f"{len(frames) - 1} for {len(frames)} frames (the next one is the player's)"
            raise StartError(f"start {self.name!r}: actions must be [{wanted}], not {list(actions.shape)}")
        whole = isinstance(self.since, int | np.integer) and not isinstance(self.since, bool)
        if not whole or abs(int(self.since)) > LONGEST:
            raise StartError(
                f"start {self.name!r}: since must be a whole number of ticks up to {LONGEST}, not {self.since!r}"
            )
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "since", int(self.since))
        object.__setattr__(self, "actions", actions.astype(np.int64))

    def check(self, model: ModelConfig) -> Start:
        """Itself, if it fits a model.

        Raises:
            StartError: frames of another size, or actions out of range.
        """
        size = self.frames.shape[1:3]
        if size != (model.height, model.width):
            wanted = f"{model.height}x{model.width}"
            raise StartError(
                f"start {self.name!r}: frames are {size[0]}x{size[1]}, this world has {wanted}: resize them"
            )
        outside = self.actions[(self.actions < 0) | (self.actions >= model.num_actions)]
        if len(outside):
            raise StartError(f"start {self.name!r}: action {outside[0]} is not one of 0 to {model.num_actions - 1}")
        return self
