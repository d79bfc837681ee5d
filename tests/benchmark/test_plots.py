"""Pictures of a benchmark: drawn where there is something to show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from worldsim.benchmark.plots import draw
from worldsim.benchmark.statistics import summarise
from worldsim.errors import MissingExtra, WorldsimError

pytest.importorskip("matplotlib")


def report(*settings: dict[str, Any], ticks: int = 30, error: str | None = None) -> dict[str, Any]:
    """Cells of made-up ticks: 2 ms a step, growing with the square root of the batch."""
    cells = []
    for number, one in enumerate(settings):
        about = {"world": "pong", "backend": "eager", "steps": 2, "batch": 1} | one
        rng = np.random.default_rng(number)
        tick = 2 * about["steps"] * about["batch"] ** 0.5 * np.exp(0.1 * rng.normal(size=ticks))
        samples = {"response": (tick / 2).tolist(), "tick": tick.tolist()}
        resident = [10**9 + tenth * 1000 for tenth in range(10)] if number == 0 else []
        repeats = [{"samples": samples, "resident_bytes": resident}] * 2
        facts = {"flops_per_tick": 10**8 * about["batch"], "matmul_flops_per_second": 10**12}
        cells.append(
            {"cell": about, "error": error, "facts": facts, "repeats": repeats, "summary": summarise(repeats, 1)}
        )
    return {"cells": cells}


def test_a_sweep_over_steps_and_batch_gives_every_picture(tmp_path: Path) -> None:
    sweep = [{"steps": steps, "batch": batch} for steps in (1, 4) for batch in (1, 16)]
    names = draw(report(*sweep), tmp_path / "plots")
    assert names == ["distribution.png", "steps.png", "roll_out.png", "batch.png"]
    for name in names:
        picture = cv2.imread(str(tmp_path / "plots" / name))
        assert picture is not None and picture.shape[0] > 300 and picture.std() > 5


def test_one_cell_is_not_drawn_against_steps_or_batch(tmp_path: Path) -> None:
    assert draw(report({}), tmp_path) == ["distribution.png", "roll_out.png"]
    assert draw(report({"backend": "eager"}, {"backend": "inductor"}, ticks=9), tmp_path) == ["distribution.png"]


def test_nothing_measured_draws_nothing(tmp_path: Path) -> None:
    assert draw(report(), tmp_path) == draw(report({}, error="out of memory"), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorldsimError, match=r"cannot write .*distribution\.png"):
        draw(report({}), tmp_path / "file")


def test_without_matplotlib_it_says_which_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"worldsim\[train\]"):
        draw(report({}), tmp_path)
