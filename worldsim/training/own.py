"""The model's own frames as history: what a roll-out shows it, and training on real frames alone never does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.engine.sampler import sample
from worldsim.errors import RunError
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel


def whole_clips(share: float, batch: int) -> float:
    """The share of a batch's clips that is nearest to ``share`` and a number of whole ones.

    Raises:
        RunError: it is none, where some were asked for: a share of a third of one clip would be no share at all.
    """
    clips = math.floor(batch * share + 0.5)
    if share > 0 and not clips:
        raise RunError(f"own_share={share:g} of batch={batch} is less than half a clip: give a larger batch, or 0")
    return clips / batch


def own_rows(places: Iterable[int], share: float) -> tuple[int, ...]:
    """Rows of a batch, or of a process's share of it, that show the model's own frames: evenly spread places."""

    def until(place: int) -> int:  # rounded, so that three thirds are one
        return math.floor(round(place * share, 6))

    return tuple(row for row, place in enumerate(places) if until(place + 1) > until(place))


@dataclass(frozen=True)
class Turn:
    """Which clips a step shows own frames of, and for the how manieth time.

    A clip stays in a pool for some turns, and each of them begins with the frames that the last one made: so one tick
    of work a step shows what many ticks of a roll-out leave behind, residues that grow from tick to tick among it. The
    turns of one clip lie a pool apart, so that steps in a row do not see the same.

    Attributes:
        clips: Number of the batch that the clips are drawn as.
        slot: Place in the pool.
        ticks: Ticks that lie behind the frames it begins with; 0: they are real.
    """

    clips: int
    slot: int
    ticks: int

    @staticmethod
    def at(step: int, begun: int, pool: int, ticks: int) -> Turn:
        """The turn of a step, of own frames that began at step ``begun``."""
        rounds, slot = divmod(step - begun, pool)
        stay, done = divmod(rounds, ticks)
        return Turn(begun + stay * pool + slot, slot, done)


@torch.no_grad()
def own_frames(
    model: WorldModel,
    seen: Tensor,
    previous: Tensor,
    cues: Tensor,
    noise: Tensor,
    at: Sequence[float],
    real: Tensor | None = None,
    level: Tensor | None = None,
    *,
    blind: bool = False,
) -> Tensor:
    """Each frame as the model makes it from the frames before it, all at once, quantised as a roll-out's are.

    Shown to the encoder in place of the real ones, with the real next frame as the target, they teach it to mend what
    the decoder does wrong instead of passing it on (a parallel form of DIAMOND's training on own frames, arXiv
    2405.12399). Made from pure noise (level 1), a frame may also choose another future than the recorded one: a ball
    served elsewhere. The target then asks for what its history contradicts, and a model learns to draw both. Made from
    the real frame noised to a lower level, it chooses as the recording did and its faults are its own (Resampling
    Forcing, arXiv 2512.15702).

    From what an earlier call gave, with the same noise and levels, each frame is one tick further away from real ones.
    At level 1 this is Picard's iteration of the roll-out whose frames are made of that noise: after n calls the first
    n frames are those of the roll-out, and every later one is the end of n ticks of it that began at real frames.

    Args:
        model: Makes the frames.
        seen: Patches of the frames that it sees [B, T, L, P].
        previous: Actions before each frame [B, T].
        cues: What the decoder is told at each frame [B, T-1], see :func:`~worldsim.model.cue.cues`.
        noise: Standard normal [B, T-1, L, P].
        at: Noise levels of the sampler, see :func:`~worldsim.engine.sampler.levels`.
        real, level: Patches of the recorded next frames [B, T-1, L, P], and to which level in (0, 1] each is noised
            [B, T-1] to be made again; None: all from pure noise.
        blind: Whether from the encoder's blind contexts, which for as long as it rests are those that it gives.

    Returns:
        [B, T, L, P]: the first frame as it is, then the model's.
    """
    views = model.views(seen)
    context = model.encoder.blind(previous) if blind else model.encode(views, previous, torch.zeros_like(previous))
    scene, cue = model.scene(context[:, :-1], views[:, :-1]).flatten(0, 1), cues.flatten()

    highest = noise.new_ones(len(cue)) if level is None else level.flatten()
    begun = noise if real is None or level is None else torch.lerp(real, noise, level[..., None, None])

    def denoise(x: Tensor, t: float) -> Tensor:  # a sampler's levels keep their ratios below any first one
        return model.denoise(x, scene, model.modulations(t * highest, cue, highest / (len(at) - 1)))

    made = sample(denoise, begun.flatten(0, 1), at).float()
    return torch.cat((seen[:, :1], model.shown(to_uint8(made), seen.dtype).view_as(seen[:, 1:])), 1)
