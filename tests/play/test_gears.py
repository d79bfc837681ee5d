"""Fewer threads where the cores are busy, the compiled step where they are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from worldsim.engine.session import Session
from worldsim.play import app
from worldsim.play.gears import Gears
from worldsim.play.threads import LONGEST, REST, WINDOW, Threads
from worldsim.world import World


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def feed(threads: Threads, busy_ms: float, windows: int = 1) -> list[bool]:
    return [threads.feed(busy_ms) for _ in range(windows * WINDOW)]


def test_ticks_that_are_in_time_change_nothing() -> None:
    threads = Threads(4, 33.3)
    assert not any(feed(threads, 33.0, 20)) and threads.count == 4
    late = [100.0] * (WINDOW // 2) + [10.0] * (WINDOW - WINDOW // 2)
    assert not any(threads.feed(ms) for ms in late * 4), "a few late ones are no crowd"


def test_half_of_the_threads_are_kept_if_they_are_faster() -> None:
    threads = Threads(4, 33.3)
    assert feed(threads, 90.0) == [False] * (WINDOW - 1) + [True] and threads.count == 2
    assert feed(threads, 60.0)[-1] and threads.count == 2, "faster, though not in time yet"
    assert feed(threads, 60.0)[-1] and threads.count == 1
    assert feed(threads, 20.0)[-1] and threads.count == 1
    assert not any(feed(threads, 90.0, 3)), "there is nothing below one"


def test_what_does_not_help_is_taken_back_and_not_tried_again_for_a_minute() -> None:
    threads = Threads(2, 33.3)
    feed(threads, 40.0)
    assert threads.count == 1
    assert feed(threads, 55.0)[-1] and threads.count == 2
    assert not any(feed(threads, 40.0, REST - 1)) and threads.count == 2
    assert feed(threads, 40.0)[-1] and threads.count == 1


def test_more_threads_are_tried_again_when_others_may_have_ended() -> None:
    threads = Threads(4, 33.3)
    feed(threads, 90.0)
    assert feed(threads, 20.0)[-1] and threads.count == 2
    assert not any(feed(threads, 20.0, REST - 1)) and threads.count == 2
    assert feed(threads, 20.0)[-1] and threads.count == 4
    assert feed(threads, 12.0)[-1] and threads.count == 4, "faster, so kept"
    assert not any(feed(threads, 12.0, 3 * REST))


def test_one_stalled_tick_ends_a_trial_of_more_threads_and_the_next_comes_later() -> None:
    threads = Threads(2, 33.3)
    feed(threads, 90.0)
    feed(threads, 12.0)
    for waited in (REST, 2 * REST, 4 * REST, LONGEST, LONGEST):
        assert not any(feed(threads, 12.0, waited - 1)) and threads.count == 1
        assert feed(threads, 12.0)[-1] and threads.count == 2
        assert threads.feed(300.0) and threads.count == 1, "at once"


def test_more_threads_that_are_no_faster_are_taken_back() -> None:
    threads = Threads(2, 33.3)
    feed(threads, 90.0)
    feed(threads, 12.0)
    feed(threads, 12.0, REST)
    assert threads.count == 2
    assert feed(threads, 13.0) == [False] * (WINDOW - 1) + [True] and threads.count == 1


def test_a_session_whose_threads_wait_for_each_other_goes_on_with_one(make_world, two_threads: None) -> None:
    session = Session(make_world(seed=1), dtype="float32")
    session.reset(start=0)
    decode = session._parts.decode

    def crowded(*arguments: torch.Tensor) -> Any:
        time.sleep(0.05 if torch.get_num_threads() == 2 else 0)
        return decode(*arguments)

    object.__setattr__(session._parts, "decode", crowded)
    gears, notes = Gears(session, threads=Threads(2, 40.0)), []
    for _ in range(2 * WINDOW):
        began = time.perf_counter()
        session.step([1])
        notes.append(gears.feel(1000 * (time.perf_counter() - began)))
    assert [note for note in notes if note] == ["the cores are busy: threads=1 from here on"]
    assert torch.get_num_threads() == 1 and gears.shift() == ""
    # The other program has ended.
    notes = [gears.feel(ms) for ms in [10.0] * (REST * WINDOW) + [5.0] * WINDOW]
    assert [note for note in notes if note] == ["the cores are free again: threads=2 from here on"]
    assert torch.get_num_threads() == 2


def test_a_game_begins_with_int8_where_it_helps_and_the_processor_has_no_bfloat16(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, resting = make_world(decoder="tokens"), make_world(decoder="convolutions")
    with torch.no_grad():
        resting.model.encoder.rest()
    for native in (True, False):
        monkeypatch.setattr("worldsim.engine.precision.has_native_bfloat16", lambda device, native=native: native)
        assert app.first_backend(tokens, "cpu", None) == ("torchscript" if native else "int8")
        assert app.first_backend(tokens, "cpu", "float32") == "torchscript", "who asks for float32 gets float32"
        assert app.first_backend(resting, "cpu", None) == "torchscript", "convolutions are not rounded"


def test_what_int8_draws_is_not_compiled_and_all_else_is(make_world: Callable[..., World]) -> None:
    for decoder, backend, gains in (
        ("tokens", "int8", False),
        ("tokens", "torchscript", True),
        ("convolutions", "int8", True),  # for what the encoder does
        ("convolutions", "torchscript", True),
    ):
        session = Session(make_world(decoder=decoder), dtype="float32", backend=backend)
        assert app.gains_by_compiling(session) == gains


def test_steps_are_changed_with_whatever_runs(tiny_world: World) -> None:
    session = Session(tiny_world, dtype="float32", backend="torchscript")
    session.reset(start=0)
    gears = Gears(session)
    gears.set_steps(3)
    session.step([0])
    assert session.steps == 3 and gears.state == session.backend == "torchscript"
