"""What tests of distillation share: a teacher, and what a distillation of it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from worldsim.data.episodes import Dataset
from worldsim.training.pretrain import main as train

SMALL = [
    "batch=2", "compile=false", "dtype=float32", "threads=1", "model.patch=16", "model.dim=32", "model.heads=2",
    "model.encoder_layers=1", "model.decoder_layers=1", "model.window=4", "model.decoder_width=8",
    "report.held_out_clips=1", "report.grid_rows=1", "report.grid_ticks=[1,4]",
    "moments=null", "replay.steps=0", "outcomes.steps=0",
]  # fmt: skip


@pytest.fixture(scope="session")
def small_world(pong_data: Dataset) -> Callable[..., Path]:
    """Trains a world of next to no size in a run folder, for a few steps, told whatever more; its folder."""

    def make(run: Path, *more: str) -> Path:
        told = ["world=pong", f"data={pong_data.folder}", f"run={run}", "steps=3", *SMALL, *more]
        assert train(told) in (0, None)
        return run / "world"

    return make


@pytest.fixture(scope="session")
def teacher(small_world: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world to be distilled. Do not write to it."""
    return small_world(tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture
def arguments(teacher: Path, pong_data: Dataset) -> Callable[..., list[str]]:
    """What `worldsim distill` is told to make of it in a run folder, and whatever more."""

    def tell(run: Path, *more: str) -> list[str]:
        small = ["batch=2", "compile=false", "dtype=float32", "threads=1", "head_start=2", "report.held_out_clips=1"]
        small += ["report.grid_rows=1", "report.grid_ticks=[1,4]", "steps=6", "lr=0.01", "critic_lr=0.01"]
        small += ["replay.frames=8", "replay.clips=6", "replay.first=2"]
        return [f"world={teacher}", f"data={pong_data.folder}", f"run={run}", *small, *more]

    return tell
