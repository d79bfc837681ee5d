"""Real Pong, long enough to judge by, and a small untrained world to judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.data.episodes import Dataset
from worldsim.evaluation.learning import Lesson
from worldsim.evaluation.roll_outs import DreamSettings
from worldsim.evaluation.subject import Extent, Subject, source_of
from worldsim.world import load_world

LESSON = Lesson(samples=60, episodes=2, steps=3)


@pytest.fixture(scope="session")
def pong_data(long_play: Dataset) -> Dataset:
    """What is judged by here."""
    return long_play


@pytest.fixture
def subject(pong_data: Dataset, tiny_world_folder: Path) -> Subject:
    """An untrained world, to be judged on a second or two."""
    extent = Extent(
        roll_outs=3,
        seconds=1.0,
        control_moments=6,
        drift_minutes=1 / 60,
        drift_rows=2,
        drift_window=0.5,
        drift_last=0.5,
        lesson=LESSON,
    )
    settings = DreamSettings(dtype="float32", batch=4)
    return Subject(load_world(tiny_world_folder), pong_data, source_of(pong_data), extent, settings, quiet=True)
