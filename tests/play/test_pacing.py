"""When ticks come, on a clock of the test's own."""

from __future__ import annotations

import numpy as np

from worldsim.play.pacing import STAGES, Pacer, Timings, percentiles


class Clock:
    """A clock that moves when slept on, by a microsecond when read, or when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def starts(costs: list[float], fps: float | None = 10.0) -> list[float]:
    """When each tick begins, if they take so long; a period is 0.1 s."""
    clock = Clock()
    pacer = Pacer(fps, clock=clock, sleep=clock.sleep)
    pacer.restart()
    begun = []
    for cost in costs:
        pacer.wait()
        begun.append(round(clock.now, 3))
        clock.now += cost
    return begun


def test_ticks_keep_to_the_grid_whatever_they_cost() -> None:
    assert starts([0.01, 0.09, 0.03, 0.05]) == [0.1, 0.2, 0.3, 0.4]


def test_a_small_slip_is_made_up_for_by_the_next_tick() -> None:
    assert starts([0.12, 0.01, 0.01]) == [0.1, 0.22, 0.3]


def test_a_long_stall_is_not_followed_by_a_burst() -> None:
    begun = starts([0.57, 0.01, 0.01, 0.01])
    assert begun[1] == 0.67 and min(np.diff(begun)) >= 0.05 - 1e-9
    assert begun[2:] == [0.8, 0.9], "back on the grid, ticks dropped"


def test_unpaced_never_waits() -> None:
    assert starts([0.01] * 3, fps=None) == [0.0, 0.01, 0.02]


def test_percentiles_are_values_that_occurred() -> None:
    samples = np.arange(1.0, 101.0)
    assert percentiles(samples, (50, 95, 99, 100)) == (50.0, 95.0, 99.0, 100.0)
    assert percentiles(samples[:1]) == (1.0, 1.0, 1.0)
    assert np.isnan(percentiles(samples[:0])).all()


def test_the_rate_is_of_the_last_ticks() -> None:
    timings = Timings()
    for milliseconds in (100.0, 20.0, 20.0):
        timings.add(dict.fromkeys((*STAGES, "response"), 1.0) | {"tick": milliseconds})
    assert timings.ticks == 3 and timings.rate(2) == 50.0
    assert timings.samples("tick", 2).tolist() == [20.0, 20.0]
