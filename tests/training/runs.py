"""A pretraining run that is small enough for tests: on a command line, and as a config."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from worldsim.data.episodes import Dataset
from worldsim.training.kept import ReplayConfig
from worldsim.training.loop import Loop
from worldsim.training.loss import LossConfig
from worldsim.training.optimizer import OptimizerConfig
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.pretrain_config import PretrainConfig

TINY = [
    "batch=2", "compile=false", "dtype=float32", "threads=1", "model.patch=16", "model.dim=32", "model.heads=2",
    "model.encoder_layers=1", "model.decoder_layers=1", "model.decoder_width=8", "model.window=4",
    "report.held_out_clips=1", "report.grid_rows=1", "report.grid_ticks=[1,4]", "optimizer.warmup=2",
    "loss.draws=2", "loss.noise_shift=5", "loss.own_share=0.67", "loss.own_pool=2", "loss.own_ticks=3",
    "moments.steps=6", "moments.frames=8", "moments.clips=6", "moments.first=2", "moments.every=2",
    "moments.own_after=0.5", "moments.own_share=0.5",
    "replay.steps=5", "replay.frames=8", "replay.clips=6", "replay.first=2",
    "outcomes.steps=3", "outcomes.batch=4", "outcomes.clips=8",
]  # fmt: skip

SHAPE = {"patch": 16, "history": 4, "extrapolated": 0, "dim": 32, "heads": 2, "encoder_layers": 1, "window": 4}
SHAPE |= {"decoder_layers": 1, "decoder_width": 8}


def arguments(data: Dataset, run: Path, *more: str) -> list[str]:
    return ["world=pong", f"data={data.folder}", f"run={run}", *TINY, *more]


def config(data: Dataset, run: Path, **more: object) -> PretrainConfig:
    fields = {
        "world": "pong",
        "data": data.folder,
        "run": run,
        "batch": 2,
        "compile": False,
        "dtype": "float32",
        "model": SHAPE,
    }
    fields |= {"optimizer": OptimizerConfig(warmup=2), "outcomes": OutcomesConfig(3, 4, 8)}
    fields |= {"replay": ReplayConfig(steps=0)}
    fields |= {"loss": LossConfig(draws=2, noise_shift=5.0, own_share=0.67, own_pool=2, own_ticks=3)}
    return PretrainConfig(**(fields | more))  # type: ignore[arg-type]


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at(trainer: Loop, step: int) -> None:
    """Have a run stop after a step, as it does when it is told to end."""
    keep = trainer.keep

    def keep_and_stop(last: int) -> bool:
        keep(last)
        if trainer.step == step:
            trainer._ask_to_stop()
        return trainer._stop

    trainer.keep = keep_and_stop  # type: ignore[method-assign]
