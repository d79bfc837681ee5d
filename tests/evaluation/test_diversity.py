"""Where served balls go: read from flights that are known, and of a world on real play."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import Dataset
from worldsim.evaluation import diversity
from worldsim.evaluation.diversity import BEFORE, FLIGHT, LATE, flights
from worldsim.evaluation.pictures import served_balls
from worldsim.evaluation.report import SECTIONS
from worldsim.evaluation.subject import Subject
from worldsim.start import Start
from worldsim.vision.reading import Reading

TICKS = BEFORE + LATE + FLIGHT


def flying(first: int, right: float, down: float, count: int = 1) -> Reading:
    """A ball that comes at a tick and flies, readings [T, 1]."""
    tick = np.arange(TICKS)[:, None].astype(np.float32)
    there = tick >= first
    place = [np.where(there, 40 + speed * (tick - first), np.nan).astype(np.float32) for speed in (right, down)]
    return Reading(there * np.int64(count), there.astype(np.float32), *place)


@pytest.mark.parametrize(("right", "down", "direction"), [(-1, -2, 0), (1, -2, 1), (-1, 2, 2), (1, 2, 3)])
def test_a_served_ball_goes_one_of_four_ways(right: float, down: float, direction: int) -> None:
    found = flights(flying(BEFORE, right, down))
    assert found["direction"].tolist() == [direction]
    assert (found["x"][0], found["y"][0]) == (40 + FLIGHT * right, 40 + FLIGHT * down)


@pytest.mark.parametrize("ball", [flying(TICKS, 1, 1), flying(BEFORE + LATE + 1, 1, 1), flying(BEFORE, 1, 1, count=2)])
def test_no_ball_or_one_too_late_or_two_are_not_a_serve(ball: Reading) -> None:
    found = flights(ball)
    assert found["direction"].tolist() == [-1] and np.isnan(found["x"]).all()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Held-out real Pong, long enough for a few serves."""
    pytest.importorskip("ale_py")
    folder = tmp_path_factory.mktemp("data") / "pong"
    return collect(
        CollectConfig(
            source="pong", steps=2400, processes=1, seed=3, held_out=0.5, folder=str(folder), episode_steps=1200
        ),
        progress=False,
    )


def test_futures_are_held_against_real_serves(
    subject: Subject, played: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dream that shows what was recorded has the recorded spread; one that always serves alike has none."""
    extent = replace(subject.extent, serves=100, futures=2)
    judged = Subject(subject.world, played, subject.source, extent, subject.settings, quiet=True)
    found = list(diversity._serves(judged))
    assert len(found) > 3
    for start, actions, flight in found:
        assert len(start.frames) == judged.window and len(actions) == TICKS
        assert flight["direction"] in (0, 1, 2, 3)
    recorded = [recorded_frames(played, start) for start, _, _ in found]

    def as_recorded(world: object, starts: list[object], *_: object) -> NDArray[np.uint8]:
        assert len(starts) == 2 * len(found)
        return np.stack([frames for frames in recorded for _ in range(2)], 1)

    monkeypatch.setattr(diversity, "dream", as_recorded)
    report = diversity.measure(judged)
    assert report is not None and report["moments"] == len(found) == report["serves"]
    assert report["served"] == report["as_recorded"] == 1 and report["distance"] == 0
    assert report["dream"] == pytest.approx(report["real"])
    assert report["one_moment"] == {"directions": 1.0, "spread": 0.0}, "both futures of a moment are the recorded one"

    monkeypatch.setattr(diversity, "dream", lambda *given: np.stack([recorded[0]] * (2 * len(found)), 1))
    report = diversity.measure(judged)
    assert report is not None and report["dream"]["spread"] == pytest.approx(0) and report["dream"]["directions"] == 1
    assert report["distance"] > 0 or report["real"]["directions"] == 1
    assert "real serves" in "\n".join(SECTIONS["diversity"](report))
    served_balls(report, 80, 80, tmp_path / "served.png")
    assert (tmp_path / "served.png").stat().st_size > 1000


def recorded_frames(dataset: Dataset, start: Start) -> NDArray[np.uint8]:
    """What followed a start in the recording."""
    file, tick = start.name.split(" at ")
    (info,) = [info for info in dataset.held_out if info.file == file]
    return dataset.load(info).frames[int(tick) + 1 : int(tick) + 1 + TICKS]


def test_an_untrained_world_serves_nothing(subject: Subject, played: Dataset) -> None:
    extent = replace(subject.extent, serves=2, futures=3)
    judged = Subject(subject.world, played, subject.source, extent, subject.settings, quiet=True)
    report = diversity.measure(judged)
    assert report is not None and (report["moments"], report["futures"]) == (2, 3)
    assert report["served"] < 0.5
    assert "One ball flies in" in "\n".join(SECTIONS["diversity"](report))
