"""The fast step that comes later: made beside the game, swapped in between ticks, gone when the steps change."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from worldsim.engine.session import Session
from worldsim.play.gears import Gears
from worldsim.play.threads import Threads
from worldsim.play.upgrade import Upgrade, can_compile
from worldsim.world import load_world


@pytest.mark.skipif(not can_compile(), reason="no C++ compiler")
def test_the_compiled_step_is_made_beside_the_game_and_found_again(tiny_world_folder: Path) -> None:
    session = Session(load_world(str(tiny_world_folder)), dtype="float32", seed=1)
    session.reset(start=0)
    for first in (True, False):
        upgrade = Upgrade(str(tiny_world_folder), session)
        began, ticks, parts = time.monotonic(), 0, None
        # The compiler leaves the cores to whoever wants them: beside other tests it took over five minutes.
        while parts is None and time.monotonic() - began < 1200:
            session.step([ticks % 6])  # the game goes on meanwhile
            ticks += 1
            time.sleep(0.01)
            parts = upgrade.take()
            if first and ticks == 100:
                assert upgrade.state == "compiling"
        assert parts is not None and upgrade.take() is None
        upgrade.close()
    assert session.backend == "eager"
    frame = session.render([2]).astype(int)
    state = session.snapshot()
    session.commit()
    session.adopt(parts)
    session.restore(state)
    session.commit()
    assert session.backend == "aoti" and session.render([2]).shape == frame.shape
    session.commit()
    leaves_when_others_want_the_cores(Upgrade(str(tiny_world_folder), session))


def leaves_when_others_want_the_cores(upgrade: Upgrade) -> None:
    """The compiled step, whose library is on disk, comes and goes with the threads and the steps."""
    session = upgrade._session
    session.adopt(session.make_parts("eager"))
    threads = Threads(torch.get_num_threads(), 1e9)
    gears, note, end = Gears(session, upgrade, threads), "", time.monotonic() + 60
    while not note and time.monotonic() < end:
        session.step([0])
        note = gears.shift()
    assert note.startswith("compiled step") and gears.state == "aoti"
    threads.most += 1  # as if it had just been given fewer
    gears._choose()
    assert gears.state == "eager"
    threads.most -= 1
    gears._choose()
    assert gears.state == "aoti"
    gears.set_steps(session.steps + 1)
    assert session.backend == "eager"
    session.step([0])
    upgrade.close()


def test_without_a_compiler_the_game_stays_as_it_is(tiny_world_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    session = Session(load_world(str(tiny_world_folder)), dtype="float32")
    session.reset(start=0)
    upgrade = Upgrade(str(tiny_world_folder), session)
    time.sleep(1)
    session.step([0])
    assert upgrade.take() is None and upgrade.state == ""
    upgrade.close()
