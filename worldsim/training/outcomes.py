"""The last part of a run: the outcome heads alone, on a finished encoder and with more of the rare events.

Points are scored in one tick of a hundred. While the encoder still moves, its heads hear too few of them; once it
rests, they learn them in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worldsim.data.clips import ClipStore
from worldsim.model.outcome import OutcomeHead
from worldsim.model.world_model import WorldModel
from worldsim.training.loss import own_frames, own_rows


@dataclass(frozen=True)
class OutcomesConfig:
    """How the outcome heads are finished.

    Attributes:
        steps: Steps of it, after the run's own; 0 leaves the heads as they are.
        batch: Clips a step, over all processes. Every second pair of clips holds an event for certain: a point lost,
            a point won and the end of an episode in turns, however rare each is. Every second clip shows the model's
            own frames, as a roll-out does.
    """

    steps: int = 1000
    batch: int = 8


def event_at(events: Sequence[str], step: int, place: int) -> str | None:
    """What the clip at one place of one step must hold; None: anything."""
    if not events or place // 2 % 2:
        return None
    return events[(step + place // 4) % len(events)]


def outcome_loss(
    heads: OutcomeHead, frozen: WorldModel, store: ClipStore, seed: int, step: int, places: range, sampling_steps: int
) -> Tensor:
    """Cross-entropy of reward sign and termination, with gradients to the heads only.

    Args:
        heads: What is trained, float32.
        frozen: Gives the contexts; any dtype.
        store: Training clips.
        seed, step: Which batch.
        places: Which of its clips.
        sampling_steps: Denoising steps of the model's own frames.
    """
    device, dtype = frozen.encoder.position.device, frozen.encoder.position.dtype
    drawn = [store.draw(seed, step, place, event=event_at(store.events, step, place)) for place in places]
    clips = [clip for clip, _ in drawn]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).to(device)
    actions = torch.from_numpy(np.stack([clip.actions for clip in clips])).to(device)
    rewards = torch.from_numpy(np.sign([clip.rewards for clip in clips]).astype(np.int64) + 1).to(device)
    terminated = torch.from_numpy(np.stack([clip.terminated for clip in clips]).astype(np.int64)).to(device)
    with torch.no_grad():
        seen = frozen.patchify(frames.to(dtype) / 127.5 - 1)
        previous = torch.cat((torch.full_like(actions[:, :1], frozen.no_action), actions), 1)
        own = own_rows(places, 2)
        if own:
            some = torch.tensor(own)
            generators = [torch.Generator().manual_seed(int(drawn[i][1].integers(2**62))) for i in own]
            noise = torch.stack([torch.randn(seen[0, 1:].shape, generator=generator) for generator in generators])
            noise = noise.to(device, dtype)
            seen[some] = own_frames(frozen, seen[some], previous[some], actions[some], noise, sampling_steps)
        context = frozen.encode(frozen.views(seen), previous, torch.zeros_like(previous))[:, 1:].float()
    reward_logits, end_logits = heads(context)
    return F.cross_entropy(reward_logits.flatten(0, 1), rewards.flatten()) + F.cross_entropy(
        end_logits.flatten(0, 1), terminated.flatten()
    )
