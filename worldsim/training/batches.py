"""From clips to the tensors of one training step, random numbers included."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.model.config import ModelConfig
from worldsim.training.crops import Crops
from worldsim.training.loss import Batch, LossConfig, noise_levels
from worldsim.training.own import Turn, own_rows
from worldsim.training.shorts import Shorts

Made = TypeVar("Made")

_AHEAD = 4  # batches made in advance for a device that is faster than one thread of the CPU


def make_batch(
    store: ClipStore,
    model: ModelConfig,
    loss: LossConfig,
    seed: int,
    step: int,
    places: range,
    device: torch.device | str = "cpu",
    begun: int | None = None,
) -> Batch:
    """The clips at ``places`` of batch number ``step``: the same numbers whoever asks, and in however many parts.

    From step ``begun`` on, clips that show the model's own frames come in turns (:class:`~worldsim.training.own.Turn`).

    For a CPU all of it is NumPy's: this runs beside the training, and a second thread with PyTorch's parallel loops
    makes those of the first wait for cores. Any other device draws the noise itself, from a seed for each clip.
    """
    here = torch.device(device).type == "cpu"
    rows = [_make_row(store, model, loss, seed, step, place, here, begun) for place in places]
    noise = [] if here else [device_noise(row, model, loss, device) for row in rows]
    fields = {name: torch.from_numpy(np.stack([row[name] for row in rows])).to(device) for name in rows[0]}
    return Batch(**fields, **{name: torch.stack([one[name] for one in noise]) for name in (noise[0] if noise else ())})


def stream(
    store: ClipStore,
    model: ModelConfig,
    loss: LossConfig,
    seed: int,
    steps: Sequence[int],
    places: range,
    device: torch.device | str = "cpu",
    begun: int | None = None,
    shorts: Shorts | None = None,
) -> Generator[tuple[int, Batch], None, None]:
    """The batches of some steps in turn, see :func:`make_batch`; the next are made while the last one trains.

    Those of ``shorts`` show recorded frames alone.
    """

    def make(step: int) -> Batch:
        if shorts and shorts.at(step):
            alone = replace(loss, own_share=0.0, rewarded=0.0)
            return make_batch(shorts.clips, model, alone, seed, step, shorts.places(places), device)
        return make_batch(store, model, loss, seed, step, places, device, begun)

    return prefetched(make, steps, device)


def prefetched(
    make: Callable[[int], Made], steps: Sequence[int], device: torch.device | str
) -> Generator[tuple[int, Made], None, None]:
    """Each step with what is made for it, in turn; the next are made while the last one trains."""
    ahead = 1 if torch.device(device).type == "cpu" else _AHEAD
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(ahead) as makers:

        def begin(place: int) -> None:
            if place < len(steps):
                waiting.append(makers.submit(make, steps[place]))

        for place in range(ahead):
            begin(place)
        for place, step in enumerate(steps):
            batch = waiting.popleft().result()
            begin(place + ahead)
            yield step, batch


def _make_row(
    store: ClipStore,
    model: ModelConfig,
    loss: LossConfig,
    seed: int,
    step: int,
    place: int,
    noise: bool,
    begun: int | None = None,
) -> dict[str, NDArray[Any]]:
    clips, own = step, bool(own_rows([place], loss.own_share))
    if own and begun is not None and step >= begun:
        clips = Turn.at(step, begun, loss.own_pool, loss.own_ticks).clips
    ticks = min(model.window, store.length - 2)
    clip, rng = store.draw(seed, clips, place, rewarded=loss.rewarded, ticks=ticks)
    if clips != step:
        rng = np.random.default_rng((seed, step, place, 1))  # the same clip, other noise
    steps = store.length - 1
    untold = bool(loss.untold) and np.random.default_rng((seed, clips, place, 3)).random() < loss.untold
    noised = model.context_levels > 1 and rng.random() < loss.context_noise_share
    level = int(rng.integers(1, model.context_levels)) if noised else 0
    u = stratified(rng, loss.draws, steps)
    own_level = rng.uniform(loss.own_level, loss.own_highest, steps).astype(np.float32)
    # Unused where the context is clean and the frames are real.
    noised = noised or own
    row: dict[str, NDArray[Any]] = {
        "frames": clip.frames,
        "actions": clip.actions,
        "rewards": np.sign(clip.rewards).astype(np.int64) + 1,
        "terminated": clip.terminated.astype(np.int64),
        "since": np.zeros_like(clip.since[:-1]) if untold else clip.since[:-1],
        "context_level": np.array(level),
        "own_level": own_level,
        "t": noise_levels(u, loss),
    }
    crops = Crops(model, loss.crop) if loss.crop else None
    row["squares"] = crops.choose(rng, crops.busy_frames(clip.frames)) if crops else np.zeros((steps, 0), np.int64)
    if not noise:
        return row | {"noise_seed": np.array(rng.integers(2**62)), "noised": np.array(noised)}
    shapes = _noise_shapes(model, loss, steps)
    context = _normal(rng, shapes["context_noise"]) if noised else np.zeros(shapes["context_noise"], np.float32)
    return row | {"context_noise": context, "noise": _normal(rng, shapes["noise"])}


def stratified(rng: np.random.Generator, draws: int, steps: int) -> NDArray[np.float32]:
    """Uniform numbers in (0, 1] [draws, steps]: those of one step lie in different ``draws``-ths of the interval."""
    # 1 - u: a level of exactly 0 has nothing to denoise.
    place = rng.permuted(np.tile(np.arange(draws)[:, None], (1, steps)), axis=0)
    return (1 - (place + rng.random((draws, steps))) / draws).astype(np.float32)


def _noise_shapes(model: ModelConfig, loss: LossConfig, steps: int) -> dict[str, tuple[int, ...]]:
    learned = loss.crop**2 if loss.crop else model.tokens
    return {
        "context_noise": (steps + 1, model.tokens, model.patch_dim),
        "noise": (loss.draws, steps, learned, model.patch_dim),
    }


def device_noise(
    row: dict[str, NDArray[Any]], model: ModelConfig, loss: LossConfig, device: torch.device | str
) -> dict[str, Tensor]:
    """The noise of one clip, drawn where it is needed; takes its seed out of ``row``."""
    shapes = _noise_shapes(model, loss, len(row["actions"]))
    generator = torch.Generator(device).manual_seed(int(row.pop("noise_seed")))
    noise = {name: torch.randn(shape, generator=generator, device=device) for name, shape in shapes.items()}
    return noise if row.pop("noised") else noise | {"context_noise": torch.zeros_like(noise["context_noise"])}


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)
