"""Milliseconds by stage, cheap enough to leave on."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray


class _Stage:
    """One stage's ring of durations; entered and left like any context manager."""

    __slots__ = ("count", "durations", "last", "started", "sync")

    def __init__(self, capacity: int, sync: Callable[[], None] | None) -> None:
        self.durations = np.zeros(capacity, np.int64)  # ns
        self.count = 0
        self.last = 0
        self.started = 0
        self.sync = sync

    def __enter__(self) -> None:
        self.started = time.perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return  # a stage that failed has no duration
        if self.sync is not None:
            self.sync()
        self.last = time.perf_counter_ns() - self.started
        self.durations[self.count % len(self.durations)] = self.last
        self.count += 1


class Stopwatch:
    """Durations of named stages: ``with watch("decode"): ...``.

    Args:
        capacity: Samples kept per stage; older ones are overwritten.
        sync: Called before a stage's clock stops, for a device that works asynchronously.
    """

    def __init__(self, capacity: int = 4096, sync: Callable[[], None] | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a stopwatch keeps at least 1 sample a stage, not {capacity}")
        self._capacity, self._sync = capacity, sync
        self._stages: dict[str, _Stage] = {}

    def __call__(self, stage: str) -> _Stage:
        """A context manager that times its body as one sample of ``stage``; not re-entrant."""
        found = self._stages.get(stage)
        if found is None:
            found = self._stages[stage] = _Stage(self._capacity, self._sync)
        return found

    @property
    def last(self) -> dict[str, float]:
        """Latest duration of every stage in milliseconds, in the order the stages were first seen."""
        return {name: stage.last / 1e6 for name, stage in self._stages.items() if stage.count}

    def samples(self, stage: str) -> NDArray[np.float64]:
        """Durations of a stage in milliseconds, oldest first; empty for a stage never timed."""
        found = self._stages.get(stage)
        if found is None:
            return np.zeros(0)
        start = found.count % self._capacity if found.count > self._capacity else 0
        kept = found.durations[: min(found.count, self._capacity)]
        return np.roll(kept, -start) / 1e6

    def percentiles(self, stage: str, which: tuple[float, ...] = (50, 95, 99)) -> tuple[float, ...]:
        """Percentiles of a stage in milliseconds; NaN for a stage never timed."""
        samples = self.samples(stage)
        if not len(samples):
            return tuple(float("nan") for _ in which)
        return tuple(float(value) for value in np.percentile(samples, which))

    def clear(self) -> None:
        """Forget all samples, for instance those of a warm-up."""
        for stage in self._stages.values():
            stage.count = stage.last = 0
