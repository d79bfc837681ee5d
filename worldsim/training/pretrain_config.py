"""What a pretraining run is told, and what its folder says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worldsim.data.episodes import Dataset
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE
from worldsim.settings import defaults, from_dict
from worldsim.training.ancestry import collect_command, command_of
from worldsim.training.kept import MomentsConfig, ReplayConfig
from worldsim.training.loop import Loop, ReportConfig
from worldsim.training.loss import LossConfig
from worldsim.training.optimizer import OptimizerConfig
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.shorts import ShortsConfig


@dataclass(frozen=True)
class PretrainConfig:
    """Everything `worldsim train` is told; see configs/train.yaml.

    Attributes:
        design: ``scd``, or another one by its name, see :class:`~worldsim.model.designs.Design`.
        forcing: How a chunk-causal one is taught, one of :data:`~worldsim.training.forcing.FORCINGS`.
        decoder: Share of the rates at which the decoder learns in the steps of the whole model; what it makes of
            contexts learns at all of them. Clips hold few hits, and a decoder that knows them unlearns some there.
        shorts: Short clips among those steps; None: none.
    """

    world: str
    data: Path | None = None
    run: Path | None = None
    init: str | None = None
    steps: int = 8000
    decoder: float = 1.0
    batch: int = 3
    clip: int | None = None
    seed: int = 0
    sampling_steps: int = 2
    sampling_shift: float = 1.0
    device: str = "cpu"
    dtype: str | None = None
    compile: bool = True
    threads: int | None = None
    model: dict[str, Any] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    moments: MomentsConfig | None = None
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    outcomes: OutcomesConfig = field(default_factory=OutcomesConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    design: str = SEPARABLE
    forcing: str = "diffusion"
    shorts: ShortsConfig | None = None

    @property
    def first(self) -> int:
        """Steps before those of the whole model: none where weights are there to start from, unless asked for."""
        return self.moments.steps if self.moments and (self.moments.anyway or not self.init) else 0


def model_of(config: PretrainConfig, dataset: Dataset) -> ModelConfig:
    """The shape of what a run trains: the recording's frames and actions, and what it was told."""
    source = dataset.config["source"]
    size = {"height": source["height"], "width": source["width"]}
    given = {name: value for name, value in config.model.items() if value is not None}
    eighth = source["height"] // 8
    if eighth and not source["height"] % eighth and not source["width"] % eighth:
        given = {"patch": eighth, **given}
    return from_dict(ModelConfig, {"num_actions": len(dataset.actions), **size, **given})


def run_name(config: PretrainConfig) -> str:
    """Of a run's folder where none is named."""
    if config.design == SEPARABLE:
        return config.world
    return "-".join([config.world, config.design.replace(":", "-"), *["teacher"] * (config.forcing == "teacher")])


def run_settings(config: PretrainConfig, loop: Loop) -> dict[str, Any]:
    """What a run's folder is to say of it."""
    return asdict(config) | {
        "model": asdict(loop.shape),
        "clip": loop.clips.length,
        "data": str(loop.dataset.folder.resolve()),
        "run": str(loop.run.folder),
        "commands": {
            "collect": collect_command(loop.dataset),
            "train": command_of("train", asdict(config), asdict(from_dict(PretrainConfig, defaults("train")))),
        },
    }
