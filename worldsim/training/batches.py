"""From clips to the tensors of one training step, random numbers included."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from worldsim.data.clips import ClipStore
from worldsim.model.config import ModelConfig
from worldsim.training.loss import Batch, LossConfig, shift_levels


def make_batch(store: ClipStore, model: ModelConfig, loss: LossConfig, seed: int, step: int, places: range) -> Batch:
    """The clips at ``places`` of batch number ``step``: the same numbers whoever asks, and in however many parts."""
    rows = [_make_row(store, model, loss, seed, step, place) for place in places]
    return Batch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def stream(
    store: ClipStore, model: ModelConfig, loss: LossConfig, seed: int, steps: range, places: range
) -> Generator[tuple[int, Batch], None, None]:
    """Batches of consecutive steps; the next one is made while the last one trains."""
    with ThreadPoolExecutor(1) as maker:
        ahead = maker.submit(make_batch, store, model, loss, seed, steps.start, places)
        for step in steps:
            batch = ahead.result()
            if step + 1 < steps.stop:
                ahead = maker.submit(make_batch, store, model, loss, seed, step + 1, places)
            yield step, batch


def _make_row(
    store: ClipStore, model: ModelConfig, loss: LossConfig, seed: int, step: int, place: int
) -> dict[str, torch.Tensor]:
    clip, rng = store.draw(seed, step, place)
    steps, patches = store.length - 1, (model.tokens, model.patch_dim)
    noised = model.context_levels > 1 and rng.random() < loss.context_noise_share
    level = int(rng.integers(1, model.context_levels)) if noised else 0
    normal = torch.Generator().manual_seed(int(rng.integers(2**62)))
    # 1 - u: a level of exactly 0 has nothing to denoise.
    u = torch.from_numpy((1 - rng.random((loss.draws, steps))).astype(np.float32))
    return {
        "frames": torch.from_numpy(clip.frames),
        "actions": torch.from_numpy(clip.actions),
        "rewards": torch.from_numpy(np.sign(clip.rewards).astype(np.int64) + 1),
        "terminated": torch.from_numpy(clip.terminated.astype(np.int64)),
        "context_level": torch.tensor(level),
        "context_noise": torch.randn(steps + 1, *patches, generator=normal),
        "t": shift_levels(u, loss.noise_shift),
        "noise": torch.randn(loss.draws, steps, *patches, generator=normal),
    }
