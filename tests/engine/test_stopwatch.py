"""The stopwatch, with a clock that the test can read too."""

from __future__ import annotations

import math

import pytest

from worldsim.engine.stopwatch import Stopwatch


def test_stages_are_kept_apart_in_the_order_they_came() -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch("decode"):
            pass
    with watch("encode"):
        pass
    assert list(watch.last) == ["decode", "encode"]
    assert len(watch.samples("decode")) == 3 and len(watch.samples("encode")) == 1
    assert watch.last["decode"] == watch.samples("decode")[-1] >= 0


def test_only_the_newest_samples_are_kept_oldest_first() -> None:
    watch, ends = Stopwatch(capacity=3), []
    for i in range(5):
        with watch("stage"):
            sum(range(i * 1000))
        ends.append(watch.last["stage"])
    assert watch.samples("stage").tolist() == ends[-3:]


def test_percentiles_lie_within_the_samples_and_are_nan_for_a_stage_never_timed() -> None:
    watch = Stopwatch()
    for _ in range(20):
        with watch("stage"):
            pass
    p50, p95, p99 = watch.percentiles("stage")
    samples = watch.samples("stage")
    assert samples.min() <= p50 <= p95 <= p99 <= samples.max()
    assert all(math.isnan(value) for value in watch.percentiles("other")) and not len(watch.samples("other"))


def test_a_stage_that_fails_leaves_no_sample() -> None:
    watch = Stopwatch()
    with pytest.raises(KeyError), watch("stage"):
        raise KeyError
    assert not len(watch.samples("stage")) and watch.last == {}


def test_clear_forgets_a_warm_up() -> None:
    watch = Stopwatch()
    with watch("stage"):
        pass
    watch.clear()
    assert not len(watch.samples("stage")) and watch.last == {}


def test_an_asynchronous_device_is_waited_for_before_the_clock_stops() -> None:
    calls = []
    watch = Stopwatch(sync=lambda: calls.append("sync"))
    with watch("stage"):
        calls.append("work")
    assert calls == ["work", "sync"]
