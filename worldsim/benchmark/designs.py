"""Designs as cells: what causality, chunks and a moving buffer cost in a tick, and how late they show an action.

The same blocks, number formats, backends and lookups as the engine's; only the design differs. Weights are random,
which cost what trained ones do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from worldsim.benchmark import measure
from worldsim.benchmark.cells import Cell
from worldsim.benchmark.delay import response_delay
from worldsim.engine.cache import RingCache
from worldsim.engine.generators import Chunks, FrameGenerator, Stream
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.sampler import levels
from worldsim.errors import WorldsimError
from worldsim.model.config import ModelConfig
from worldsim.model.dit import DiT, wake


@dataclass(frozen=True)
class Design:
    """What ``model=`` asks for beside ``scd``.

    Attributes:
        kind: ``dit``, chunk-causal with a KV cache; ``stream``, a moving buffer whose frames all see each other;
            ``stream-causal``, one whose frames see those before them.
        frames: Of a chunk, or of the buffer.
    """

    kind: str
    frames: int = 1

    @classmethod
    def parse(cls, text: str) -> Design:
        """``dit``, ``dit:4``, ``stream:4`` or ``stream-causal:4``.

        Raises:
            WorldsimError: it is none of these.
        """
        kind, _, number = text.partition(":")
        frames = int(number) if number.isascii() and number.isdecimal() else 1 if text == "dit" else 0
        if kind not in ("dit", "stream", "stream-causal") or not 1 <= frames <= 64:
            raise WorldsimError(
                f"model is {text!r}: there is scd, dit, dit:<frames of a chunk>, stream:<frames of the buffer> "
                "and stream-causal:<frames>, of 1 to 64 frames"
            )
        return cls(kind, frames)

    def make(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int) -> DiT:
        """A network of this design of a world's sizes, with random weights."""
        torch.manual_seed(seed)
        if self.kind == "dit":
            model = DiT(config, self.frames)
        elif self.kind == "stream":
            model = DiT(replace(config, window=2), self.frames + self.reference(config))
        else:
            model = DiT(replace(config, window=max(2, self.frames + self.reference(config))))
        wake(model, seed)
        return model.to(device, dtype).eval().requires_grad_(False)

    def reference(self, config: ModelConfig) -> int:
        """Clean frames that go along with a buffer: as many as the world remembers, less those on their way."""
        return max(1, config.window - self.frames)

    def open(self, model: DiT, config: ModelConfig, batch: int, steps: int, backend: str) -> FrameGenerator:
        """The design at work; a frame of a buffer is denoised once a tick, or as often as makes ``steps`` or more."""
        if self.kind == "dit":
            return Chunks(model, batch, steps, backend)
        passes = -(-steps // self.frames)
        return Stream(model, batch, self.frames, self.reference(config), passes, backend)


class DesignRunner:
    """A roll-out of a design, with the clock where the engine has it."""

    def __init__(self, cell: Cell, warmup: int, seed: int) -> None:
        began = time.perf_counter()
        world = measure.open_world(cell)
        config, design = world.config.model, Design.parse(cell.model)
        self._device = pick_device(cell.device)
        dtype = pick_dtype(cell.dtype, self._device)
        model = design.make(config, self._device, dtype, seed)
        steps = len(levels(cell.steps or world.config.steps)) - 1
        self._actions, self._batch = config.num_actions, cell.batch
        self._rng = np.random.default_rng(seed)
        self._generator = generator = design.open(model, config, cell.batch, steps, cell.backend)
        start = world.starts[0]
        delay = response_delay(generator, start, config.num_actions, cell.batch)
        generator.prime(start, seed)
        self.run(warmup)
        warm = time.perf_counter() - began
        self._facts = {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "dtype": str(dtype).removeprefix("torch."),
            "steps": steps,
            "threads": torch.get_num_threads(),
            "window": config.window,
            "flops_per_tick": cell.batch * _flops(design, config, steps),
            "matmul_flops_per_second": measure.matmul_rate(self._device, dtype),
            "warmup_seconds": warm,
        } | (delay.facts() if delay else {})

    def facts(self) -> dict[str, Any]:
        """See :class:`~worldsim.benchmark.worker.Runner`."""
        return self._facts

    def run(self, ticks: int) -> dict[str, Any]:
        """See :class:`~worldsim.benchmark.worker.Runner`."""
        samples: dict[str, list[float]] = {name: [] for name in ("response", "tick")}
        on_gpu = self._device.type == "cuda"
        sync = torch.cuda.synchronize if on_gpu else lambda: None
        clock = time.perf_counter
        for _ in range(ticks):
            actions = self._rng.integers(0, self._actions, self._batch)
            began = clock()
            self._generator.render(actions)
            sync()
            rendered = clock()
            self._generator.commit()
            sync()
            samples["response"].append(1000 * (rendered - began))
            samples["tick"].append(1000 * (clock() - began))
        peak = torch.cuda.max_memory_allocated() if on_gpu else measure.peak_bytes()
        return {"samples": samples, "resident_bytes": [], "peak_memory_bytes": peak}


def _flops(design: Design, config: ModelConfig, steps: int) -> int:
    """Of one row's tick in float32 on average, counted by PyTorch; see :func:`measure.flops_per_tick`."""
    from torch.utils.flop_counter import FlopCounterMode

    cpu = torch.device("cpu")
    model = design.make(config, cpu, torch.float32, 0)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        if design.kind == "dit":
            cache, k = RingCache(model, 1), design.frames
            shape, condition = (1, k, config.tokens, config.patch_dim), torch.zeros(1, k, model.modulation.out_features)
            for _ in range(steps + 1):
                model.step(torch.zeros(shape), condition, cache.keys, cache.values, cache.bias())
        else:
            k = 1
            total = design.frames + design.reference(config)
            condition = torch.zeros(1, total, model.modulation.out_features)
            for _ in range(-(-steps // design.frames)):
                model.denoise(torch.zeros(1, total, config.tokens, config.patch_dim), condition)
    return int(counter.get_total_flops()) // k
