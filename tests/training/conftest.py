"""A run that several rooms of tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import arguments
from worldsim.data.episodes import Dataset
from worldsim.training.pretrain import main


@pytest.fixture(scope="session")
def straight(pong_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 + 12 + 5 + 3 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("run") / "straight"
    assert main(arguments(pong_data, run, "steps=12")) in (0, None)
    return run
