"""One cell in a process of its own: its threads, its memory and its crash are nobody else's.

Speaks JSON, one object a line. In: ``{"open": cell, "warmup": n, "seed": s}``, then ``{"run": ticks}`` as often as
wanted. Out: one answer each, or ``{"error": "one line"}``. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from worldsim.benchmark.cells import Cell
from worldsim.errors import WorldsimError

_ERROR_TICKS = 16


class Runner(Protocol):
    """A cell that is open."""

    def facts(self) -> dict[str, Any]:
        """What is known of the cell once it is warm."""
        ...

    def run(self, ticks: int) -> dict[str, Any]:
        """One repeat; see :func:`worldsim.benchmark.measure.time_ticks`."""
        ...


class EngineRunner:
    """A session, and nothing around it."""

    def __init__(self, cell: Cell, warmup: int, seed: int) -> None:
        import numpy as np
        import torch

        from worldsim.benchmark import measure
        from worldsim.benchmark.delay import response_delay
        from worldsim.engine.generators import Separable
        from worldsim.engine.session import Session

        began = time.perf_counter()
        world = measure.open_world(cell)
        self._session = session = Session(
            world, cell.batch, steps=cell.steps, seed=seed, device=cell.device, dtype=cell.dtype, backend=cell.backend
        )
        if cell.without:
            from worldsim.benchmark.ablations import go_without

            go_without(session, cell.without)
        session.reset()
        self._rng = np.random.default_rng(seed)
        measure.time_ticks(session, warmup, self._rng)
        warm = time.perf_counter() - began
        self._facts = {
            "parameters": world.model.parameter_count(),
            "dtype": str(session.dtype).removeprefix("torch."),
            "steps": session.steps,
            "threads": torch.get_num_threads(),
            "window": world.config.model.window,
            "encoder_sees": world.model.encoder.sees,
            "flops_per_tick": measure.flops_per_tick(world, session.steps, cell.batch),
            "matmul_flops_per_second": measure.matmul_rate(session.device, session.dtype),
            "warmup_seconds": warm,
        }
        if not cell.window:  # frames of a window that nothing was learned for need not be near anything
            self._facts |= measure.frame_error(session, _ERROR_TICKS, self._rng)
        delay = response_delay(Separable(session), world.starts[0], len(world.actions), cell.batch)
        self._facts |= delay.facts() if delay else {}
        session.reset()

    def facts(self) -> dict[str, Any]:
        """See :class:`Runner`."""
        return self._facts

    def run(self, ticks: int) -> dict[str, Any]:
        """See :class:`Runner`."""
        import torch

        from worldsim.benchmark import measure

        made = measure.time_ticks(self._session, ticks, self._rng)
        on_gpu = self._session.device.type == "cuda"
        made["peak_memory_bytes"] = torch.cuda.max_memory_allocated() if on_gpu else measure.peak_bytes()
        return made


class WindowRunner:
    """The player as it is: a key is posted, polled, decoded, shown; unpaced."""

    def __init__(self, cell: Cell, warmup: int, seed: int) -> None:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            os.environ["SDL_VIDEODRIVER"] = "dummy"
        from worldsim.play.app import PlayConfig, open_session

        self._config = PlayConfig(
            world=cell.world,
            steps=cell.steps,
            seed=seed,
            threads=cell.threads,
            device=cell.device,
            dtype=cell.dtype,
            backend=cell.backend,
            unpaced=True,
            headless=os.environ.get("SDL_VIDEODRIVER") == "dummy",
            keys="taps",
        )
        began = time.perf_counter()
        self._world, self._session, self._seed = open_session(self._config)
        self._play(warmup)
        self._warm = time.perf_counter() - began

    def _play(self, ticks: int) -> Any:
        from contextlib import ExitStack
        from dataclasses import replace

        from worldsim.play.app import open_game

        with ExitStack() as stack:
            game = open_game(replace(self._config, frames=ticks), self._world, self._session, self._seed, stack)
            game.run()
        return game.timings

    def facts(self) -> dict[str, Any]:
        """See :class:`Runner`."""
        import torch

        from worldsim.benchmark import measure

        session = self._session
        return {
            "parameters": self._world.model.parameter_count(),
            "dtype": str(session.dtype).removeprefix("torch."),
            "steps": session.steps,
            "threads": torch.get_num_threads(),
            "window": self._world.config.model.window,
            "flops_per_tick": measure.flops_per_tick(self._world, session.steps, 1),
            "matmul_flops_per_second": measure.matmul_rate(session.device, session.dtype),
            "warmup_seconds": self._warm,
        }

    def run(self, ticks: int) -> dict[str, Any]:
        """See :class:`Runner`."""
        from worldsim.benchmark import measure

        timings = self._play(ticks)
        names = ("poll", "decode", "to_uint8", "present", "encode", "outcome", "upkeep", "response", "event", "tick")
        samples = {name: timings.samples(name).tolist() for name in names}
        return {"samples": samples, "resident_bytes": [], "peak_memory_bytes": measure.peak_bytes()}


def answer(request: dict[str, Any], runner: Runner | None) -> tuple[dict[str, Any], Runner | None]:
    """What is said to one request, and the runner that answers the next."""
    if "open" in request:
        cell = Cell(**request["open"])
        runner = _kind(cell)(cell, request["warmup"], request["seed"])
        return {"facts": runner.facts()}, runner
    assert runner is not None
    return runner.run(request["run"]), runner


def _kind(cell: Cell) -> Callable[[Cell, int, int], Runner]:
    if cell.world.startswith("diamond:"):
        from worldsim.benchmark.peers import DiamondRunner

        return DiamondRunner
    from worldsim.model.designs import SEPARABLE
    from worldsim.world import load_world

    if cell.model != SEPARABLE or load_world(cell.world).config.design != SEPARABLE:
        from worldsim.benchmark.designs import DesignRunner

        return DesignRunner
    return WindowRunner if cell.surface == "window" else EngineRunner


def main() -> None:
    """Answer requests until there are no more."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries that print must not break the talk
    runner: Runner | None = None
    for line in sys.stdin:
        try:
            said, runner = answer(json.loads(line), runner)
        except WorldsimError as error:
            said = {"error": " ".join(str(error).split())}
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
                raise
            said = {"error": "out of memory: give a smaller batch or window"}
        print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main()
