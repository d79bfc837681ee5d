"""Timing in the process that runs the cell: ticks by stage, memory, and what the arithmetic could cost at best."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim.benchmark.cells import Cell
from worldsim.engine.parts import DecodePart, EncodePart, OutcomePart
from worldsim.engine.sampler import levels
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.machine import physical_cores
from worldsim.model.designs import SEPARABLE
from worldsim.world import World, load_world

TENTHS = 10
_MATMUL = 1024  # side of the square matrices that stand for what the hardware can do


def open_world(cell: Cell) -> World:
    """The world of a cell, with the cell's window, in a process that has the cell's threads from now on."""
    torch.set_num_threads(cell.threads or physical_cores())
    world = load_world(cell.world)
    if cell.window and world.config.design != SEPARABLE:
        raise WorldsimError(
            f"window={cell.window} is for worlds of design scd, and {world.name!r} is of {world.config.design}: "
            "leave window out"
        )
    return with_window(world, cell.window) if cell.window else world


def time_ticks(session: Session, ticks: int, rng: np.random.Generator) -> dict[str, Any]:
    """Play random actions and time every tick.

    Args:
        session: Reset and warm.
        ticks: At least 1.
        rng: Draws the actions.

    Returns:
        ``samples``: milliseconds by stage, with ``response`` (actions in, uint8 frames on the host out) and ``tick``
        (all of it); ``resident_bytes``: memory of the process after each tenth of the ticks.
    """
    names = ("decode", "to_uint8", "encode", "outcome")
    # All the room that samples take is taken now, or it would be taken for growth of the session: as lists they were
    # 192 bytes a tick.
    taken = np.full((len(names) + 2, ticks), np.nan)
    resident: list[int] = []
    marks = {round(ticks * (i + 1) / TENTHS) for i in range(TENTHS)}
    clock = time.perf_counter
    for done in range(1, ticks + 1):
        actions = rng.integers(0, len(session.world.actions), session.batch)
        began = clock()
        session.render(actions)
        shown = clock()
        session.commit()
        ended = clock()
        stages = session.stopwatch.last
        for row, name in enumerate(names):
            taken[row, done - 1] = stages[name]
        taken[-2:, done - 1] = 1000 * (shown - began), 1000 * (ended - began)
        if done in marks:
            resident.append(resident_bytes())
    samples = dict(zip((*names, "response", "tick"), taken.tolist(), strict=True))
    return {"samples": samples, "resident_bytes": resident}


def frame_error(session: Session, ticks: int, rng: np.random.Generator) -> dict[str, float]:
    """How far a session's frames are from those of eager float32, a tick ahead, in grey levels of 255.

    Both draw the same noise and remember the same frames, those of eager float32; what they know of them is their own.

    Args:
        session: Of any backend and dtype; it is reset.
        ticks: At least 1.
        rng: Draws the actions.

    Returns:
        ``frame_error_mean`` of all values, and ``frame_error_max``.
    """
    exact = Session(
        session.world, session.batch, steps=session.steps, device=session.device, dtype="float32", backend="eager"
    )
    for one in (exact, session):
        one.reset(start=0, seed=0)
    total, most = 0.0, 0
    for _ in range(ticks):
        actions = rng.integers(0, len(session.world.actions), session.batch)
        wanted, given = (one.render(actions).astype(np.int16) for one in (exact, session))
        off = np.abs(wanted - given)
        total, most = total + float(off.mean()), max(most, int(off.max()))
        session.shown.copy_(exact.shown)
        for one in (exact, session):
            one.commit()
    exact.close()
    return {"frame_error_mean": total / ticks, "frame_error_max": float(most)}


def flops_per_tick(world: World, steps: int, batch: int) -> int:
    """Floating-point operations of a tick's products and convolutions, counted by PyTorch as it runs one in float32.

    A multiplication and an addition are two. Element-wise work is not counted; it costs memory traffic, not arithmetic.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from worldsim.engine.cache import make_cache

    model, c = world.model, world.config.model
    cache = make_cache(model, 1)
    action = torch.zeros(1, dtype=torch.int64)
    frames = torch.zeros(1, c.height, c.width, 3, dtype=torch.uint8)
    view, noise = torch.zeros(1, c.tokens, c.view_dim), torch.zeros(1, c.tokens, c.patch_dim)
    with torch.no_grad():
        parts = (DecodePart(model, levels(steps)), EncodePart(model), OutcomePart(model))
        with FlopCounterMode(display=False) as counter:
            context, seen, scene, _, _ = parts[1](frames, view, action, action, cache.keys, cache.values, cache.bias())
            parts[0](noise, scene, action)
            parts[2](context, seen, action)
    return batch * int(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Floating-point operations a second of square matrix products: the best of what fits in ``seconds``."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_MATMUL, _MATMUL, generator=generator).to(device, dtype) for _ in range(2))
    sync: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best, end = float("inf"), time.perf_counter() + seconds
    with torch.inference_mode():
        a @ b
        sync()
        while time.perf_counter() < end:
            began = time.perf_counter()
            for _ in range(8):
                a @ b
            sync()
            best = min(best, (time.perf_counter() - began) / 8)
    return 2.0 * _MATMUL**3 / best


def with_window(world: World, window: int) -> World:
    """The world with another memory, for latency, not for looks; see :func:`~worldsim.model.ages.of_window`."""
    from dataclasses import replace

    from worldsim.model.ages import of_window
    from worldsim.world_files import bare_model

    config = replace(world.config.model, window=window)
    model = bare_model(config)
    model.load_state_dict(of_window(world.model.state_dict(), window))
    return World(replace(world.config, model=config), world.actions, model, world.starts, world.card)


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; where the system does not say, the most there ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most RAM that this process ever had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
