"""When the next tick is due, and how long each part of a tick took."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

# In the order in which they happen. Response is the first four; the rest runs in the slack before the next
# poll.
STAGES = ("poll", "decode", "to_uint8", "present", "encode", "outcome", "upkeep", "slack")


class Pacer:
    """Absolute deadlines, one a tick.

    Sleeping stops short of the deadline and a spin covers the rest, since a sleep may wake late by a
    scheduler's tick. A tick that comes too late never makes the following ones come faster in a burst: the
    deadlines that were missed are dropped.

    Args:
        fps: ticks a second, or None to run as fast as it goes.
        spin: seconds of spinning before a deadline.
        clock, sleep: in seconds; only tests pass their own.
    """

    def __init__(
        self,
        fps: float | None,
        spin: float = 0.001,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.period = 1.0 / fps if fps else 0.0
        self._spin, self._clock, self._sleep = spin, clock, sleep
        self._due = clock()

    def restart(self) -> None:
        """Make the next tick due one period from now, after a pause or a reset."""
        self._due = self._clock() + self.period

    def wait(self) -> float:
        """Wait until the next tick is due.

        Returns:
            When it was due, in the clock's seconds. Unpaced, that is now.
        """
        now = self._clock()
        if not self.period:
            return now
        due = self._due
        if now < due:
            if due - now > self._spin:
                self._sleep(due - now - self._spin)
            while self._clock() < due:
                pass
            self._due = due + self.period
        else:
            # Keep to the grid after a small slip; after a large one the next tick still gets half a period at
            # least.
            self._due = due + self.period * max(1, round((now - due) / self.period) + 1)
        return due


class Timings:
    """Every sample of every stage, in milliseconds, so that nothing has to be forgotten for a report."""

    def __init__(self) -> None:
        self._samples = {name: array("d") for name in (*STAGES, "response", "event", "tick")}
        self.late = 0
        self.stolen = 0  # of the late ones, those in which the machine itself was paused

    @property
    def ticks(self) -> int:
        """Ticks timed so far."""
        return len(self._samples["response"])

    def add(self, samples: Mapping[str, float]) -> None:
        """Add one sample, in milliseconds, to each of the named series."""
        for name, value in samples.items():
            self._samples[name].append(value)

    def samples(self, name: str, last: int | None = None) -> NDArray[np.float64]:
        """Samples of a series in milliseconds, oldest first: all of them, or the last so many."""
        series = self._samples[name]
        return np.array(series if last is None else series[-last:], dtype=np.float64)

    def rate(self, count: int | None = None) -> float:
        """Ticks a second over the last ``count`` ticks (all of them if None); 0.0 before the second tick."""
        ticks = self._samples["tick"][-count:] if count else self._samples["tick"]
        return 1000.0 * len(ticks) / sum(ticks) if len(ticks) else 0.0


def percentiles(samples: NDArray[np.float64], which: Iterable[float] = (50, 95, 99)) -> tuple[float, ...]:
    """Percentiles of samples by their nearest ranks, so that every figure occurred; NaN of none."""
    if samples.size == 0:
        return tuple(float("nan") for _ in which)
    ranked = np.sort(samples)
    return tuple(float(ranked[int(np.ceil(q / 100 * samples.size)) - 1]) for q in which)
