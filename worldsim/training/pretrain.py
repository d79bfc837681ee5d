"""`worldsim train`: pretraining of a world on recorded play."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from worldsim.engine.precision import pick_device
from worldsim.errors import MissingExtra, RunError
from worldsim.locking import sole_writer
from worldsim.model.designs import SEPARABLE
from worldsim.settings import command, from_dict, home
from worldsim.training.design_trainer import DesignTrainer
from worldsim.training.export import export
from worldsim.training.parallel import ranks
from worldsim.training.pretrain_config import PretrainConfig, run_name
from worldsim.training.trainer import Trainer


@command("train")
def main(settings: dict[str, Any]) -> int | None:
    """Learns a world from recorded play. Run it again to continue where it stopped."""
    config = from_dict(PretrainConfig, settings)
    if config.steps < (0 if config.init else 1) or config.batch < 1:
        raise RunError("batch must be at least 1, and steps too, or 0 to finish decoder and heads of init=<world>")
    if config.design == SEPARABLE and config.forcing != "diffusion":
        raise RunError(f"forcing={config.forcing} is for design=dit and dit:<k>: the separable design has its own")
    if config.design == SEPARABLE and config.model.get("viewed"):
        raise RunError("model.viewed is for other designs than scd, which always sees views: leave it null")
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        import tensorboard  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        raise MissingExtra(str(error.name), "train") from error
    folder = config.run or home() / "runs" / run_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    with ranks(pick_device(config.device)) as place, sole_writer(folder, RunError) if place.leads else nullcontext():
        trainer: Trainer | DesignTrainer
        if config.design == SEPARABLE:
            trainer = Trainer(config, place)
            trainer.stop_on_signals()
            trainer.begin_decoder()
            trainer.train()
            trainer.finish_decoder()
            trainer.finish_outcomes()
        else:
            trainer = DesignTrainer(config, place)
            trainer.stop_on_signals()
            trainer.train()
        if not trainer.finished:
            return 130
        if not trainer.step:  # nothing was to be trained: init's weights, with another window
            trainer.save()
        if place.leads:
            export(trainer.run)
            verb = "play it with `python play.py" if config.design == SEPARABLE else "judge it with `worldsim evaluate"
            print(f"{trainer.run.world}: {verb} world={trainer.run.world}`")
    return None
