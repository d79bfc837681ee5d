"""Other projects' world models as cells, run from a clone of theirs: the same machine, the same turns, the same clock.

``world=diamond:<clone>`` is DIAMOND (Alonso et al. 2024, arXiv 2405.12399): its own code and Atari settings, with
random weights, which cost what trained ones do. In this Python: ``pip install torcheval wandb`` (its modules import
them) and ``git clone https://github.com/eloialonso/diamond``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.benchmark import measure
from worldsim.benchmark.cells import Cell
from worldsim.errors import BackendError, WorldsimError

DIAMOND = "diamond:"
_ACTIONS, _STEPS, _SIZE = 6, 3, 64  # Pong's actions; Euler steps and frame side of its config/trainer.yaml


class DiamondRunner:
    """What its ``WorldModelEnv.step`` computes for a frame: the diffusion sampler, then reward and end from an LSTM.

    Raises:
        WorldsimError: no clone there, something that it imports is missing, or settings that it does not have.
    """

    def __init__(self, cell: Cell, warmup: int, seed: int) -> None:
        import torch

        from worldsim.engine.precision import pick_device, pick_dtype
        from worldsim.machine import physical_cores

        folder = Path(cell.world.removeprefix(DIAMOND)).expanduser()
        if not (folder / "src/models/diffusion").is_dir():
            raise WorldsimError(f"{folder} is not a clone of DIAMOND: git clone https://github.com/eloialonso/diamond")
        if cell.backend != "eager" or cell.window or cell.surface != "engine":
            raise BackendError("DIAMOND runs as it is: leave backend, window and surface out of its cell")
        torch.set_num_threads(cell.threads or physical_cores())
        torch.manual_seed(seed)
        self._device = pick_device(cell.device)
        self._dtype = pick_dtype(cell.dtype, self._device)
        began = time.perf_counter()
        self._denoiser, self._outcome, self._sampler = _build(folder, cell.steps or _STEPS)
        for part in (self._denoiser, self._outcome):
            part.to(self._device, self._dtype).eval()
        self._sampler.sigmas = self._sampler.sigmas.to(self._device, self._dtype)
        torch.set_default_dtype(self._dtype)  # its sampler draws noise in the default format
        b = cell.batch
        self._frames = torch.zeros(b, 4, 3, _SIZE, _SIZE, device=self._device, dtype=self._dtype)
        self._actions = torch.zeros(b, 4, dtype=torch.long, device=self._device)
        self._memory: Any = None
        self._rng = np.random.default_rng(seed)
        self.run(warmup)
        warm = time.perf_counter() - began
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(1)
        self._facts = {
            "parameters": sum(p.numel() for part in (self._denoiser, self._outcome) for p in part.parameters()),
            "dtype": str(self._dtype).removeprefix("torch."),
            "steps": cell.steps or _STEPS,
            "threads": torch.get_num_threads(),
            "window": 4,  # it is shown the last four frames
            "flops_per_tick": int(counter.get_total_flops()),
            "matmul_flops_per_second": measure.matmul_rate(self._device, self._dtype),
            "warmup_seconds": warm,
        }

    def facts(self) -> dict[str, Any]:
        """See :class:`~worldsim.benchmark.worker.Runner`."""
        return self._facts

    def run(self, ticks: int) -> dict[str, Any]:
        """See :class:`~worldsim.benchmark.worker.Runner`."""
        import torch

        samples: dict[str, list[float]] = {name: [] for name in ("decode", "to_uint8", "outcome", "response", "tick")}
        on_gpu = self._device.type == "cuda"
        sync = torch.cuda.synchronize if on_gpu else lambda: None
        clock = time.perf_counter
        with torch.no_grad():
            for _ in range(ticks):
                actions = torch.from_numpy(self._rng.integers(0, _ACTIONS, len(self._actions)))
                began = clock()
                self._actions[:, -1] = actions.to(self._device)
                frame, _ = self._sampler.sample(self._frames, self._actions)
                frame = frame.to(self._dtype)
                sync()
                made = clock()
                frame.add(1).mul(127.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
                shown = clock()
                _, _, self._memory = self._outcome.predict_rew_end(
                    self._frames[:, -1:], self._actions[:, -1:], frame.unsqueeze(1), self._memory
                )
                self._frames = torch.cat((self._frames[:, 1:], frame.unsqueeze(1)), 1)
                self._actions = self._actions.roll(-1, dims=1)
                sync()
                ended = clock()
                for name, value in zip(
                    samples, (made - began, shown - made, ended - shown, shown - began, ended - began), strict=True
                ):
                    samples[name].append(1000 * value)
        peak = torch.cuda.max_memory_allocated() if on_gpu else measure.peak_bytes()
        return {"samples": samples, "resident_bytes": [], "peak_memory_bytes": peak}


def _build(folder: Path, steps: int) -> tuple[Any, Any, Any]:
    """Its denoiser, reward-and-end model and sampler, by its config/agent/default.yaml and config/trainer.yaml."""
    sys.path.insert(0, str(folder / "src"))
    try:
        from models.diffusion import (  # type: ignore[import-not-found]
            Denoiser,
            DenoiserConfig,
            DiffusionSampler,
            DiffusionSamplerConfig,
            InnerModelConfig,
        )
        from models.rew_end_model import RewEndModel, RewEndModelConfig  # type: ignore[import-not-found]
    except ImportError as error:
        raise WorldsimError(f"DIAMOND's code needs {error.name}: pip install torcheval wandb") from error
    finally:
        sys.path.pop(0)
    inner = InnerModelConfig(3, 4, 256, [2, 2, 2, 2], [64, 64, 64, 64], [False] * 4, _ACTIONS)
    denoiser = Denoiser(DenoiserConfig(inner_model=inner, sigma_data=0.5, sigma_offset_noise=0.3))
    outcome = RewEndModel(RewEndModelConfig(512, 3, _SIZE, 128, [2, 2, 2, 2], [32, 32, 32, 32], [0] * 4, _ACTIONS))
    sampler = DiffusionSampler(denoiser, DiffusionSamplerConfig(num_steps_denoising=steps, sigma_max=5.0))
    return denoiser, outcome, sampler
