"""What a recording's frames usually show is told to a network before its first step, and goes with its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.runs import state
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.model.config import ModelConfig
from worldsim.model.standard import Standard
from worldsim.training.pretrain import main
from worldsim.training.standards import tell_standards
from worldsim.world import load_world

TINY = [
    "batch=2", "compile=false", "dtype=float32", "threads=1", "model.patch=16", "model.dim=32", "model.heads=2",
    "model.encoder_layers=1", "model.window=4", "report.held_out_clips=1", "report.grid_rows=1",
    "report.grid_ticks=[1,4]", "moments=null", "replay.steps=0", "outcomes.steps=0", "loss.own_share=0",
]  # fmt: skip


def test_it_is_the_median_of_the_frames_and_what_they_are_away_from_it(pong_data: Dataset) -> None:
    source = pong_data.config["source"]
    size = {"height": source["height"], "width": source["width"]}
    standard = Standard(ModelConfig(len(pong_data.actions), patch=16, **size))
    tell_standards(standard, ClipStore(pong_data, pong_data.train, 12), 0)
    frames = np.concatenate([pong_data.load(info).frames for info in pong_data.train]) / 127.5 - 1
    frame = standard.frame.reshape(size["height"] // 16, size["width"] // 16, 16, 16, 3).transpose(1, 2)
    median = np.median(frames, 0)
    away = np.abs(frame.reshape(frames[0].shape).numpy() - median)
    assert (away < 1e-6).mean() > 0.98, "of some of the frames, nearly that of all"
    assert float(standard.spread) == pytest.approx(np.sqrt(np.square(frames - median).mean()), rel=0.1)


@pytest.mark.parametrize("design", ["scd", "dit"])
def test_it_goes_with_a_run_and_its_world(design: str, pong_data: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = [f"design={design}", "steps=2", "model.decoder=tokens", "model.standardised=true", *TINY]
    assert main(["world=pong", f"data={pong_data.folder}", f"run={run}", *asked]) in (0, None)
    tensors = state(run)
    at = ["encoder.standard", "decoder.standard"] if design == "scd" else ["standard"]
    spreads = {float(tensors[f"{part}.{one}.spread"]) for part in ("model", "ema") for one in at}
    (spread,) = spreads
    assert 0.01 <= spread < 0.5
    played = load_world(run / "world").network
    for one in at:
        assert float(played.get_buffer(f"{one}.spread")) == pytest.approx(spread, rel=0.01)
        medians = played.get_buffer(f"{one}.median").float(), tensors[f"ema.{one}.median"]
        torch.testing.assert_close(*medians, rtol=0.01, atol=0.01)
