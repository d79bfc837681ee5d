"""What a cell can go without: the same frames by another way, and nothing in a session that was not asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from worldsim.benchmark.ablations import ABLATIONS, go_without
from worldsim.benchmark.cells import Cell
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError


def differences(folder: str, name: str) -> dict[str, int]:
    """Frames with and without an optimisation, in a process that is thrown away."""
    code = (
        "import json, sys, numpy as np\n"
        "from worldsim.benchmark.ablations import go_without\n"
        "from worldsim.engine.session import Session\n"
        "from worldsim.world import load_world\n"
        "world = load_world(sys.argv[1])\n"
        "plain, states, before, after = Session(world, 2, dtype='float32'), [], [], []\n"
        "plain.reset(start='episode', seed=0)\n"
        "for _ in range(12):\n"
        "    states.append(plain.snapshot())\n"
        "    before.append(plain.step([1, 2])[0].astype(int))\n"
        "session = Session(world, 2, dtype='float32')\n"
        "go_without(session, sys.argv[2])\n"
        "for state in states:\n"  # the very state each tick: rounding that is fed back grows
        "    session.restore(state)\n"
        "    after.append(session.step([1, 2])[0].astype(int))\n"
        "before, after = np.stack(before), np.stack(after)\n"
        "print(json.dumps({'largest': int(abs(before - after).max()), 'spread': int(before.max() - before.min())}))\n"
    )
    made = subprocess.run([sys.executable, "-c", code, folder, name], capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(made.stdout)
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_tick_without_an_optimisation_shows_the_same_frames(name: str, tmp_path, make_world) -> None:
    from worldsim.world import save_world

    world = make_world(seed=1)
    if name == "resting_encoder":
        world.model.encoder.rest()
    found = differences(str(save_world(world, tmp_path / "world")), name)
    assert found["largest"] <= 1 < found["spread"], "at most a rounding of a grey level"


def test_an_unknown_optimisation_and_a_compiled_backend_are_refused(make_world) -> None:
    session = Session(make_world())
    with pytest.raises(WorldsimError, match="there is modulation_table"):
        go_without(session, "magic")
    with pytest.raises(WorldsimError, match="leave it out"):
        Cell(backend="aoti", without="bias_table")
    with pytest.raises(WorldsimError, match="there is default and keep"):
        Cell(allocator="mine")
