"""Designs as cells: what causality, chunks and a moving buffer cost in a tick, and how late they show an action.

The same blocks, number formats, backends and lookups as the engine's; only the design differs. Weights are those of a
world of the design, or random ones, which cost what trained ones do.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from worldsim.benchmark import measure
from worldsim.benchmark.cells import Cell
from worldsim.benchmark.delay import response_delay
from worldsim.engine.cache import RingCache
from worldsim.engine.generators import open_design
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.sampler import levels
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT, wake


def random_network(design: Design, config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int) -> DiT:
    """A network of a design of a world's sizes, with random weights."""
    torch.manual_seed(seed)
    model = design.make(config)
    wake(model, seed)
    return model.to(device, dtype).eval().requires_grad_(False)


class DesignRunner:
    """A roll-out of a design, with the clock where the engine has it."""

    def __init__(self, cell: Cell, warmup: int, seed: int) -> None:
        began = time.perf_counter()
        world = measure.open_world(cell)
        self._device = pick_device(cell.device)
        dtype, config = pick_dtype(cell.dtype, self._device), world.config.model
        if cell.model == SEPARABLE:
            design, model = Design.parse(world.config.design), world.network_on(self._device, dtype)
            assert isinstance(model, DiT)
        else:
            design = Design.parse(cell.model)
            model = random_network(design, config, self._device, dtype, seed)
        steps = len(levels(cell.steps or world.config.steps)) - 1
        self._actions, self._batch = config.num_actions, cell.batch
        self._rng = np.random.default_rng(seed)
        self._generator = generator = open_design(design, model, config, cell.batch, steps, backend=cell.backend)
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
    model = random_network(design, config, cpu, torch.float32, 0)
    cached = design.kind == "dit"
    k, total = 1 if design.kind.startswith("stream") else design.frames, design.frames + design.reference(config)
    with torch.inference_mode():  # what levels and actions do is looked up, and not counted
        condition = model.condition(torch.zeros(1, total), torch.zeros(1, total, dtype=torch.int64))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        if cached:
            cache, chunk = RingCache(model, 1), torch.zeros(1, k, config.tokens, config.patch_dim)
            ring = cache.keys, cache.values, cache.bias()
            before = model.blank()[None] if model.looks else None
            for _ in range(steps):
                model.step(chunk, condition, *ring, before)
            model.remember(chunk, condition, *ring, before)
            if before is not None:
                model.view(chunk, before)
        else:
            for _ in range(steps if design.kind == "clip" else -(-steps // design.frames)):
                model.denoise(torch.zeros(1, total, config.tokens, config.patch_dim), condition)
    return int(counter.get_total_flops()) // k
