"""From clips to the tensors of one training step, random numbers included."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.clips import ClipStore
from worldsim.model.config import ModelConfig
from worldsim.training.loss import Batch, LossConfig, own_rows, shift_levels


def make_batch(store: ClipStore, model: ModelConfig, loss: LossConfig, seed: int, step: int, places: range) -> Batch:
    """The clips at ``places`` of batch number ``step``: the same numbers whoever asks, and in however many parts.

    All of it is NumPy's: this runs beside the training, and a second thread with PyTorch's parallel loops makes those
    of the first wait for cores.
    """
    rows = [_make_row(store, model, loss, seed, step, place) for place in places]
    return Batch(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


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
) -> dict[str, NDArray[Any]]:
    clip, rng = store.draw(seed, step, place)
    steps, patches = store.length - 1, (model.tokens, model.patch_dim)
    noised = model.context_levels > 1 and rng.random() < loss.context_noise_share
    level = int(rng.integers(1, model.context_levels)) if noised else 0
    # 1 - u: a level of exactly 0 has nothing to denoise.
    u = (1 - rng.random((loss.draws, steps))).astype(np.float32)
    shows_own, shape = bool(own_rows([place], loss.own_every)), (steps + 1, *patches)
    return {
        "frames": clip.frames,
        "actions": clip.actions,
        "rewards": np.sign(clip.rewards).astype(np.int64) + 1,
        "terminated": clip.terminated.astype(np.int64),
        "context_level": np.array(level),
        # Unused where the context is clean and the frames are real.
        "context_noise": _normal(rng, shape) if noised or shows_own else np.zeros(shape, np.float32),
        "t": shift_levels(u, loss.noise_shift),
        "noise": _normal(rng, (loss.draws, steps, *patches)),
    }


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)
