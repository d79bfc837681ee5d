"""What separating history from denoising buys: the tick of a frame-causal diffusion transformer of the same size.

The same blocks, ring, number formats, backends and lookups as the engine's; only the design differs. Its weights are
random, which cost what trained ones do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.benchmark import measure
from worldsim.benchmark.cells import Cell
from worldsim.engine.backends import load_backend
from worldsim.engine.cache import RingCache
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.sampler import levels, sample
from worldsim.model.dit import CausalDiT
from worldsim.model.world_model import WorldModel


class DenoisePart(nn.Module):
    """Noise to the clean frame: every block, every denoising step, between an action and its picture."""

    table: Tensor

    def __init__(self, model: CausalDiT, levels: Sequence[float]) -> None:
        super().__init__()
        self.model, self.levels = model, tuple(levels)
        self.register_buffer("table", _modulations(model, levels[:-1]), persistent=False)

    def forward(self, noise: Tensor, action: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Noise, float32 [B, L, P], the action taken now and the ring to x0, float32 [B, L, P]."""
        chosen = self.table.index_select(1, action)
        at = {t: i for i, t in enumerate(self.levels[:-1])}

        def denoise(x: Tensor, t: float) -> Tensor:
            return self.model.step(x.to(chosen.dtype), chosen[at[t]], keys, values, bias)[0].float()

        return sample(denoise, noise, self.levels)


class RememberPart(nn.Module):
    """The pass over the clean frame, for its keys and values."""

    table: Tensor

    def __init__(self, model: CausalDiT) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("table", _modulations(model, (0.0,)), persistent=False)

    def forward(
        self, patches: Tensor, action: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The shown frame's patches [B, L, P] in [-1, 1] to keys and values [layers, B, h, L, hd]."""
        modulation = self.table[0].index_select(0, action)
        _, key, value = self.model.step(patches.to(modulation.dtype), modulation, keys, values, bias)
        return key, value


def _modulations(model: CausalDiT, levels: Sequence[float]) -> Tensor:
    """[levels, actions, 9 D]."""
    actions = torch.arange(model.config.num_actions, device=model.position.device)
    at = [torch.full(actions.shape, t, device=actions.device) for t in levels]
    with torch.no_grad():
        return torch.stack([model.condition(t, actions) for t in at])


class DitRunner:
    """A roll-out of the baseline, with the clock where the engine has it."""

    def __init__(self, cell: Cell, warmup: int, seed: int) -> None:
        began = time.perf_counter()
        world = measure.open_world(cell)
        c = world.config.model
        self._device = pick_device(cell.device)
        dtype = pick_dtype(cell.dtype, self._device)
        torch.manual_seed(seed)
        self._layout = WorldModel(c)  # how frames become patches; its weights are not used
        self._model = model = CausalDiT(c).to(self._device, dtype).eval().requires_grad_(False)
        asked = levels(cell.steps or world.config.steps)
        with torch.inference_mode():
            self._cache = cache = RingCache(model, cell.batch)
            self._noise = torch.zeros(cell.batch, c.tokens, c.patch_dim)
            self._generator = torch.Generator().manual_seed(seed)
            backend = load_backend(cell.backend, self._device)
            self._by_row = backend.fixed_shapes
            action = torch.zeros(cell.batch, dtype=torch.int64, device=self._device)
            example = self._noise.to(self._device), action, cache.keys, cache.values, cache.bias(by_row=self._by_row)
            parts = DenoisePart(model, asked).eval(), RememberPart(model).eval()
            self._denoise, self._remember = (backend.prepare(part, example) for part in parts)
        self._rng = np.random.default_rng(seed)
        self.run(warmup)
        warm = time.perf_counter() - began
        self._facts = {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "dtype": str(dtype).removeprefix("torch."),
            "steps": len(asked) - 1,
            "threads": torch.get_num_threads(),
            "window": c.window,
            "flops_per_tick": cell.batch * _flops(CausalDiT(c), asked),
            "matmul_flops_per_second": measure.matmul_rate(self._device, dtype),
            "warmup_seconds": warm,
        }

    def facts(self) -> dict[str, Any]:
        """See :class:`~worldsim.benchmark.worker.Runner`."""
        return self._facts

    @torch.inference_mode()
    def run(self, ticks: int) -> dict[str, Any]:
        """See :class:`~worldsim.benchmark.worker.Runner`."""
        samples: dict[str, list[float]] = {name: [] for name in ("decode", "to_uint8", "encode", "response", "tick")}
        on_gpu, cache = self._device.type == "cuda", self._cache
        sync = torch.cuda.synchronize if on_gpu else lambda: None
        clock = time.perf_counter
        for _ in range(ticks):
            given = self._rng.integers(0, self._model.config.num_actions, cache.batch)
            began = clock()
            action, bias = torch.from_numpy(given).to(self._device), cache.bias(by_row=self._by_row)
            noise = self._noise.normal_(generator=self._generator).to(self._device)
            patches = self._denoise(noise, action, cache.keys, cache.values, bias)
            sync()
            made = clock()
            grey = patches.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
            self._layout.unpatchify(grey).cpu().numpy().copy()
            shown = clock()
            seen = grey.float().div_(127.5).sub_(1)
            cache.write(*self._remember(seen, action, cache.keys, cache.values, bias))
            sync()
            ended = clock()
            spans = made - began, shown - made, ended - shown, shown - began, ended - began
            for name, seconds in zip(samples, spans, strict=True):
                samples[name].append(1000 * seconds)
        peak = torch.cuda.max_memory_allocated() if on_gpu else measure.peak_bytes()
        return {"samples": samples, "resident_bytes": [], "peak_memory_bytes": peak}


def _flops(model: CausalDiT, asked: Sequence[float]) -> int:
    """Of one row's tick in float32, counted by PyTorch; see :func:`worldsim.benchmark.measure.flops_per_tick`."""
    from torch.utils.flop_counter import FlopCounterMode

    c = model.config
    cache, action = RingCache(model, 1), torch.zeros(1, dtype=torch.int64)
    noise = torch.zeros(1, c.tokens, c.patch_dim)
    ring = cache.keys, cache.values, cache.bias()
    with torch.no_grad():
        parts = DenoisePart(model, asked).eval(), RememberPart(model).eval()
        with FlopCounterMode(display=False) as counter:
            for part in parts:
                part(noise, action, *ring)
    return int(counter.get_total_flops())
