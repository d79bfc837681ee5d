"""The last part of a run: the outcome heads alone, on a finished encoder and with more of the rare events.

Points are scored in one tick of a hundred. While the encoder still moves, its heads hear too few of them; once it
rests, its contexts can be kept, and the heads learn them in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.data.clips import Clip, ClipStore
from worldsim.model.cue import cues
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel
from worldsim.training.loss import last_rewards
from worldsim.training.own import own_frames, own_rows

STRETCH = 12  # ticks of a clip in a step
_TOGETHER = 8  # clips that are encoded at a time
_COUNTED = 1000  # steps by which it is told how often each outcome is drawn


@dataclass(frozen=True)
class OutcomesConfig:
    """How the outcome heads are finished.

    Attributes:
        steps: Steps of it, after the run's own; 0 leaves the heads as they are.
        batch: Clips a step, over all processes.
        clips: Clips whose contexts are kept, over all processes, a multiple of ``batch``. One of 48 frames of 64
            tokens of 256 numbers takes 3 MB in float32, and as much again while they are put together. They hold an
            event for certain, however rare it is, a point lost, a point won and the end of an episode in turns, and in
            turn with these anything. Every second clip shows the model's own frames, as a roll-out does.
        lr: Of AdamW, falling linearly to zero. With the 1e-3 of the rest of the run, Pong's points won stayed unheard;
            with 4e-3 Breakout's lost lives, which two pixels tell, are not found
            (docs/experiments/2026-11-30-thirty-fourth-lives.md).
        anew: Whether the heads begin from nothing: those that have learned to look for one thing hardly find another.
    """

    steps: int = 2400
    batch: int = 8
    clips: int = 2400
    lr: float = 4e-3
    anew: bool = False

    @property
    def rounds(self) -> int:
        """Kept clips at each place of a batch."""
        return max(1, self.clips // self.batch)


@dataclass(frozen=True, eq=False)
class Contexts:
    """What a frozen encoder made of the clips at some places of a batch.

    Attributes:
        places: Whose clips.
        tokens: [places, rounds, T-1, L, D], the contexts of every frame but a clip's first.
        seen: uint8 [places, rounds, T, L, P], patches of the frames that they are of.
        rewards: int64 [places, rounds, T-1], sign of the reward that led to the frame, + 1.
        terminated: int64 [places, rounds, T-1].
        since: int64 [places, rounds, T-1], the last reward at the frame, see :func:`~worldsim.model.cue.since_rewards`.
    """

    places: range
    tokens: Tensor
    seen: Tensor
    rewards: Tensor
    terminated: Tensor
    since: Tensor

    @cached_property
    def events(self) -> list[list[NDArray[np.int64]]]:
        """Of each place, the kinds of event (a point lost, one won, an end) that its clips hold: [N, 2], where each
        is, its round and its tick.
        """
        kinds = self.rewards == 0, self.rewards == 2, self.terminated != 0
        return [[torch.nonzero(kind[row]).numpy() for kind in kinds if kind[row].any()] for row in range(len(kinds[0]))]


def event_at(events: Sequence[str], step: int, place: int) -> str | None:
    """What the clip at one place of one step must hold, each kind of event in turn; None, a turn too: anything."""
    return (*events, None)[(step + place) % (len(events) + 1)]


@torch.no_grad()
def gather_contexts(
    frozen: WorldModel,
    store: ClipStore,
    seed: int,
    rounds: Iterable[int],
    places: range,
    at: Sequence[float],
) -> Contexts:
    """Encode the clips that the heads will learn from; the same for a place in however many processes.

    Args:
        frozen: Gives the contexts; any dtype, which they are kept in.
        store: Training clips.
        seed: Of the clips and of the noise of the model's own frames.
        rounds: Numbers of the batches that the clips are of.
        places: Places in each.
        at: Noise levels that the model's own frames are sampled at, see :func:`~worldsim.engine.sampler.levels`.
    """
    tokens, shown, rewards, ends, since = [], [], [], [], []
    for number in rounds:
        drawn = [store.draw(seed, number, place, event=event_at(store.events, number, place)) for place in places]
        rewards.append(torch.from_numpy(np.sign([clip.rewards for clip, _ in drawn]).astype(np.int64) + 1))
        ends.append(torch.from_numpy(np.stack([clip.terminated for clip, _ in drawn]).astype(np.int64)))
        since.append(torch.from_numpy(np.stack([clip.since[1:] for clip, _ in drawn])))
        own = own_rows(places, 0.5)
        parts = []
        for i in range(0, len(drawn), _TOGETHER):
            these = drawn[i : i + _TOGETHER]
            parts.append(_encode(frozen, these, [row - i for row in own if i <= row < i + len(these)], at))
        tokens.append(torch.cat([context for context, _ in parts]))
        shown.append(torch.cat([seen for _, seen in parts]))
    return Contexts(places, *(torch.stack(kept, 1) for kept in (tokens, shown, rewards, ends, since)))


def _encode(
    frozen: WorldModel, drawn: Sequence[tuple[Clip, np.random.Generator]], own: Sequence[int], at: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Contexts [n, T-1, L, D] of clips, and what they show: in those in ``own``, the model's own frames."""
    device, dtype = frozen.encoder.position.device, frozen.encoder.position.dtype
    frames = torch.from_numpy(np.stack([clip.frames for clip, _ in drawn])).to(device)
    actions = torch.from_numpy(np.stack([clip.actions for clip, _ in drawn])).to(device)
    seen = frozen.see(frames, dtype)
    previous = frozen.previous_actions(actions)
    if own:
        generators = [torch.Generator().manual_seed(int(drawn[i][1].integers(2**62))) for i in own]
        noise = torch.stack([torch.randn(seen[0, 1:].shape, generator=generator) for generator in generators])
        some = torch.tensor(own)
        since = torch.from_numpy(np.stack([drawn[i][0].since[:-1] for i in own])).to(device)
        told = cues(actions[some], since, frozen.config)
        made = own_frames(frozen, seen[some], previous[some], told, noise.to(device, dtype), at)
        seen[some] = made
    context = frozen.encode(frozen.views(seen), previous, torch.zeros_like(previous))[:, 1:]
    return context, to_uint8(seen.float())


def _stretch(contexts: Contexts, row: int, seed: int, step: int) -> tuple[int, slice]:
    """Of the clips at a place, the one that a step learns from, and which of its ticks."""
    rounds, ticks = contexts.rewards.shape[1:]
    length = min(STRETCH, ticks)
    rng = np.random.default_rng((seed, step, contexts.places[row]))
    kind = int(rng.integers(len(contexts.events[row]) + 1))
    number, first = int(rng.integers(rounds)), int(rng.integers(ticks - length + 1))
    if kind:
        number, event = rng.choice(contexts.events[row][kind - 1]).tolist()
        first = int(np.clip(event - rng.integers(length), 0, ticks - length))
    return number, slice(first, first + length)


def overdrawn(
    contexts: Contexts, store: ClipStore, seed: int, average: Callable[[list[Tensor]], None]
) -> tuple[Tensor, Tensor]:
    """How many times as often as it was recorded each outcome is learned from, as logarithms.

    Added to a head's logits while it learns, they leave it the chances of the record (logit adjustment, arXiv
    2007.07314): without them the heads said of one point in ten that was none that it was won, which is a twentieth as
    frequent in play as in the stretches (docs/experiments/2026-12-01-forty-second-levels.md).

    Args:
        contexts: Of this process.
        store: What they were drawn from.
        seed: Of the stretches.
        average: Makes tensors their means over all processes, in place.

    Returns:
        Float32 [3] of the signs of the reward, and [2] of going on and ending; 0 for what was never recorded.
    """
    drawn = [torch.zeros(size, device=contexts.tokens.device) for size in (3, 2)]
    for step in range(_COUNTED):
        for row in range(len(contexts.places)):
            at = (row, *_stretch(contexts, row, seed, step))
            for count, outcome in zip(drawn, (contexts.rewards[at], contexts.terminated[at]), strict=True):
                count += torch.bincount(outcome, minlength=len(count)).to(count)
    average(drawn)
    recorded = [torch.from_numpy(counts).to(count) for counts, count in zip(store.outcomes(), drawn, strict=True)]
    reward, end = (
        torch.where(there > 0, (count.clamp_min(0.5) / count.sum()).log() - (there / there.sum()).log(), 0.0)
        for count, there in zip(drawn, recorded, strict=True)
    )
    return reward, end


def outcome_loss(
    model: WorldModel,
    contexts: Contexts,
    seed: int,
    step: int,
    dtype: torch.dtype = torch.float32,
    often: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Cross-entropy of reward sign, termination and, if it is told, recency on a stretch of one kept clip of every
    place.

    A stretch holds a point lost, a point won, the end of an episode or anything at all, each of them as often as
    another: what the heads must tell apart lies next to an event.

    Args:
        model: Float32; its heads are trained.
        contexts: See :func:`gather_contexts`.
        seed, step: Which of the clips, and where in them.
        dtype: That the heads are computed in.
        often: See :func:`overdrawn`; None: what is drawn is as frequent as it should be told.
    """
    drawn: dict[str, list[Tensor]] = {"context": [], "seen": [], "last": [], "reward": [], "end": [], "since": []}
    for row in range(len(contexts.places)):
        number, here = _stretch(contexts, row, seed, step)
        at = row, number
        drawn["context"].append(contexts.tokens[at][here])
        drawn["seen"].append(contexts.seen[at][here.start : here.stop + 1])  # frames: one more than ticks
        drawn["last"].append(last_rewards(contexts.rewards[at])[here])
        drawn["reward"].append(contexts.rewards[at][here])
        drawn["end"].append(contexts.terminated[at][here])
        drawn["since"].append(contexts.since[at][here])
    device = model.encoder.position.device
    batch = {name: torch.stack(parts).to(device) for name, parts in drawn.items()}
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        views = model.views(model.shown(batch["seen"], torch.float32))[:, 1:]
        logits = model.outcome(batch["context"].float(), views, batch["last"])
    reward_logits, end_logits, *recent = (part.float().flatten(0, 1) for part in logits)
    if often is not None:
        reward_logits = reward_logits + often[0].to(reward_logits)
        end_logits = end_logits + often[1].to(end_logits)
    loss = F.cross_entropy(reward_logits, batch["reward"].flatten())
    loss = loss + F.cross_entropy(end_logits, batch["end"].flatten())
    for told in recent:
        since = batch["since"]
        sign = torch.where(since.abs() <= model.config.reward_ages, since.sign(), 0) + 1
        loss = loss + F.cross_entropy(told, sign.flatten())
    return loss
