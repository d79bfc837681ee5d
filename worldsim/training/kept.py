"""Single frames, kept with all that is needed to learn from them again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldsim.errors import RunError


@dataclass(frozen=True)
class KeptConfig:
    """Which contexts are kept, and how frames of them are drawn.

    Attributes:
        frames: Frames in a step, over all processes.
        clips: Clips whose contexts are kept, over all processes; 4 MB each for 48 frames of 64 tokens of 256 numbers.
        first: Of these, how many before the first step.
        every: Steps from which on ``batch`` new clips take the oldest ones' place.
        emphasis: Frames are drawn by their error to this power (alpha in arXiv 1511.05952).
        correction: They weigh what they were drawn too often, to this power (beta). With 0.8, what nobody can know (a
            served ball) was foretold too often (docs/experiments/2026-11-22-eighth-pong.md).
        crop: Patches along a side of the square of each frame that is learned from, see
            :class:`~worldsim.training.crops.Crops`; None: whole frames. Squares are drawn by the errors of their middle
            patches, frames by that of the patch which is foretold worst; both for its place, and by what they were on
            arrival. Were they learned anew, the ticks before and after a hit would soon be drawn less often than it,
            and hits foretold too early.
        anywhere: Share of the draws that fall on all frames, and all patches, alike.
        turns: Whether frames and patches are drawn by the geometric mean of how much worse they were foretold than is
            usual at their place and of how much more than usual they are not what they would be if motion went on
            (:class:`~worldsim.model.motion.MotionExtrapolation`). What is foretold badly is often at a paddle that may
            go either way, and what moves otherwise is often foretold well: hits, bounces and serves are both.
        about: Names of the source's objects, for whose errors alone some frames are drawn, by the colours that its
            settings give them. A paddle that obeys a key with a speed that nobody sees is foretold a little wrong in
            one tick of four, and left one square of fifteen for the player's hits
            (docs/experiments/2026-11-28-twenty-fifth-pong.md). What is learned of a square is all that is in it.
        about_share: Of the frames that are drawn by errors, with ``about``, the share that is drawn so; the others are
            drawn for all errors, without which paddles at the border were unlearned.
        whole: Share of the steps that are of whole frames, drawn evenly, half as many as there are squares in the
            others (with ``crop``). Squares alone unlearn what is learned from nowhere near what they are drawn for.
        erased: Names of the source's objects that a dream may have lost and that are never gone: some whole frames'
            past does not show them, see :class:`~worldsim.training.erasing.Eraser`.
        erased_share: Of the whole frames, with ``erased``, those.

    Raises:
        RunError: ``whole``, ``about_share`` or ``erased_share`` is no share; or ``whole`` is asked for without squares,
            or ``erased`` where no frame is whole.
    """

    frames: int = 282
    clips: int = 2400
    first: int = 300
    every: int = 2
    emphasis: float = 1.0
    correction: float = 1.0
    crop: int | None = None
    anywhere: float = 0.0
    turns: bool = False
    about: tuple[str, ...] = ()
    about_share: float = 0.5
    whole: float = 0.0
    erased: tuple[str, ...] = ()
    erased_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.whole <= 1 or (self.whole and not self.crop):
            told = f"whole={self.whole:g} is a share of steps, from 0 to 1, beside those of squares"
            raise RunError(f"{told}: give such a one, and crop")
        if self.erased and self.crop and not self.whole:
            raise RunError("erased is of whole frames, and crop leaves none: give whole a share of the steps")
        for name in ("about_share", "erased_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RunError(f"{name}={getattr(self, name):g} is a share of frames: give a number from 0 to 1")

    def at(self, step: int) -> KeptConfig:
        """How frames are drawn at a step of this stretch."""
        return self

    def is_whole(self, step: int) -> bool:
        """Whether a step is of whole frames: those that are, are spread evenly."""
        return not self.crop or math.floor((step + 1) * self.whole) > math.floor(step * self.whole)

    def drawn(self, step: int) -> int:
        """Frames of a step, over all processes."""
        return max(1, self.frames // 2) if self.crop and self.is_whole(step) else self.frames


@dataclass(frozen=True)
class MomentsConfig(KeptConfig):
    """How the decoder begins.

    A clip's pass through the encoder costs several times a pass of the decoder, and what happens near a thing is told
    by the last few frames: so the decoder first learns from those alone, from many more moments than whole clips would
    bring along. They are drawn evenly at first: drawn by how badly they are foretold from the beginning, everything is
    learned later. Once what is common is known, what is rare is drawn more often (docs/experiments, the fifteenth and
    the sixteenth Pong).

    Attributes:
        steps: Steps of it, before those of the whole model; 0: none.
        evenly: Share of these steps before ``emphasis`` and ``correction`` count.
        own_share: Of the clips that arrive, which show the model's own frames.
        own_after: Share of these steps after which they do.
        turned_share: Of the frames of a step that are squares, those drawn from every moment of recorded play at which
            one of the things of ``about`` turns or comes, see :class:`~worldsim.training.turns.Turns`; the others are
            drawn by errors, of the clips that are kept.
        anyway: Whether also a run that begins from a world begins so. Its encoder is then learned anew.
        then: The optimisers' rates at the whole model's steps that follow, in what they would be without moments: the
            decoder has learned, and is not to unlearn while the encoder begins.

    Raises:
        RunError: as :class:`KeptConfig`; or ``turned_share`` is no share, or asked for without ``crop`` and ``about``.
    """

    frames: int = 16
    clips: int = 1200
    first: int = 300
    every: int = 20
    emphasis: float = 2.0
    correction: float = 0.3
    steps: int = 54_000
    evenly: float = 0.45
    own_share: float = 0.34
    own_after: float = 0.4
    turned_share: float = 0.0
    anyway: bool = False
    then: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.turned_share <= 1 or (self.turned_share and not (self.crop and self.about)):
            told = f"turned_share={self.turned_share:g} is a share of squares, from 0 to 1, where some things turn"
            raise RunError(f"{told}: give such a one, with crop and about")

    def at(self, step: int) -> KeptConfig:
        """See :meth:`KeptConfig.at`."""
        return self if step >= self.evenly * self.steps else replace(self, emphasis=0.0, correction=0.0)


@dataclass(frozen=True)
class ReplayConfig(KeptConfig):
    """How the decoder is finished.

    Attributes:
        steps: Steps of it, after those of the whole model and before those of the heads; 0: none.
        rate: The optimisers' rates at the beginning, in those of the whole model's; they fall linearly to zero.
    """

    steps: int = 4000
    rate: float = 0.75


@dataclass(frozen=True)
class Frames:
    """Single frames with all that the decoder needs to foretell the next one.

    Attributes:
        context: [N, L, D]; [N, 0] where the decoder learns from blind ones.
        past: Patches of the last frames as they were shown, the newest last, uint8 [N, history, L, P].
        previous: int64 [N], the trail that led to the last frame, see :mod:`worldsim.model.trail`.
        following: Patches of the recorded frame that follows, uint8 [N, L, P].
        cue: int64 [N], what the decoder is told of it, see :func:`~worldsim.model.cue.cues`.
    """

    context: Tensor
    past: Tensor
    previous: Tensor
    following: Tensor
    cue: Tensor


@dataclass(frozen=True)
class Places:
    """Where drawn frames are kept.

    Attributes:
        frames: Their numbers [N].
        patches: Of each one patch that it was drawn for [N]; all 0 where it was for none.
    """

    frames: NDArray[np.intp]
    patches: NDArray[np.intp]
