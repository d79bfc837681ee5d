"""Ways to distil by name: what a distillation is told, and which method that makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldsim.errors import RunError
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.asymmetric import AsymmetricDMD
from worldsim.training.distillation.dmd import DMD
from worldsim.training.distillation.energy import EnergyScore
from worldsim.training.distillation.regression import Consistency, ODEInitialisation
from worldsim.training.distillation.shortcut import Shortcut
from worldsim.training.distillation.teaching import Method
from worldsim.training.forcing import Forcing
from worldsim.training.kept import KeptConfig
from worldsim.training.loop import ReportConfig
from worldsim.world import load_world

#: Ways to distil, and each one's learning rate: distribution matching, the same on the student's roll-outs, regression
#: to the ends of the teacher's trajectories, consistency along them, the energy score against recorded play, and
#: shortcuts: steps that say where two of half their size lead.
METHODS = {"dmd": 5e-5, "self_forcing": 5e-5, "ode": 3e-4, "consistency": 3e-4, "energy": 3e-4, "shortcut": 3e-4}


@dataclass(frozen=True)
class DistillConfig:
    """Everything `worldsim distill` is told; see configs/distill.yaml.

    Attributes:
        world: The teacher.
        method: One of :data:`METHODS`.
        teacher: For ``method=self_forcing``: a world of design ``clip`` that judges roll-outs over several frames at
            once; None: the decoder of ``world`` judges each frame.
        init: A world distilled from ``world``, whose decoder the student begins with: ODE initialisation, where it was
            made by ``method=ode`` (CausVid, arXiv 2412.07772). None: it begins with the teacher's.
        sampling_steps, sampling_shift: Of the student's sampler, see :func:`~worldsim.engine.sampler.levels`; None: the
            teacher's.
        teacher_steps: Denoising steps of the teacher's solver, where the method follows it; of the finest sampler that
            a shortcut model knows.
        trajectories: Steps whose trajectories are computed and kept, by ``method=ode``.
        members: Frames made of each moment, which ``method=energy`` compares; at least 2.
        lr: Of AdamW, on the student's decoder; None: as :data:`METHODS` says. Twenty times it is that of Muon, which
            moves the blocks' matrices where no critic learns beside the student.
        critic_lr: Of the critic's.
        critic_steps: Of the critic, for each of the student's (the two time scales of DMD2, arXiv 2405.14867).
        head_start: Steps in which only the critic learns.
        batch: Clips that arrive together; where none are kept, all of their frames are a step's. None: 3, and 12 for
            ``method=self_forcing``.
        clip: Frames in one. None: three windows, and two for ``method=self_forcing``, which begins with one of them
            and rolls the rest out.
        own_share, own_level: Of the student's own frames as history, see
            :class:`~worldsim.training.loss.LossConfig`.
        replay: Contexts that are kept, so that a step's frames are those in which a choice is to be made; ``clips=0``:
            none. ``method=ode`` keeps trajectories instead, ``method=self_forcing`` nothing.
    """

    world: str = "pong"
    method: str = "dmd"
    teacher: str | None = None
    init: str | None = None
    data: Path | None = None
    run: Path | None = None
    steps: int = 1000
    batch: int | None = None
    clip: int | None = None
    seed: int = 0
    sampling_steps: int | None = None
    sampling_shift: float | None = None
    teacher_steps: int = 16
    trajectories: int = 100
    members: int = 2
    lr: float | None = None
    critic_lr: float = 2e-4
    critic_steps: int = 2
    head_start: int = 50
    ema: float = 0.99
    noise_shift: float = 1.0
    moved_weight: float = 16.0
    own_share: float = 0.67
    own_level: float = 0.5
    replay: KeptConfig = field(default_factory=lambda: KeptConfig(frames=141, clips=1500))
    device: str = "cpu"
    dtype: str | None = None
    compile: bool = True
    threads: int | None = None
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "critic_steps", "teacher_steps", "trajectories"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.method not in METHODS:
            raise RunError(f"there is no method={self.method}: it is one of {', '.join(METHODS)}")
        if self.members < 2:
            raise RunError(f"members must be at least 2, not {self.members}: their distances are what is scored")
        if self.teacher and self.method != "self_forcing":
            raise RunError(f"teacher={self.teacher} judges roll-outs: give method=self_forcing with it")
        if self.method == "shortcut" and (self.teacher_steps < 2 or self.teacher_steps & (self.teacher_steps - 1)):
            raise RunError(f"shortcuts are halved: teacher_steps={self.teacher_steps} must be a power of two")
        if self.method == "ode" and self.teacher_steps % (self.sampling_steps or 1):
            raise RunError(
                f"teacher_steps={self.teacher_steps} is not a multiple of sampling_steps={self.sampling_steps}"
            )

    @property
    def keeps(self) -> bool:
        """Whether steps are of kept contexts, as ``replay`` says."""
        return self.method not in ("ode", "self_forcing") and self.replay.clips > 0

    @property
    def draws(self) -> int:
        """Of noise, that a step needs: what frames are made of, and what they are judged with."""
        matching = 2 + self.critic_steps
        return {"dmd": matching, "self_forcing": matching, "energy": self.members}.get(self.method, 1)


def make_method(
    config: DistillConfig,
    teacher: WorldModel,
    student: WorldModel,
    computer: Computer,
    at: Sequence[float],
    teacher_at: Sequence[float],
    rolled: int,
    folder: Path,
) -> Method:
    """What a distillation is told to do.

    Args:
        config: See :class:`DistillConfig`.
        teacher: Whole and frozen.
        student: Shares its encoder.
        computer: Of everything.
        at, teacher_at: Noise levels of the student's sampler, and of the teacher's, see
            :func:`~worldsim.engine.sampler.levels`.
        rolled: Frames of a roll-out, where the method makes such.
        folder: Of the run.

    Raises:
        WorldError: there is no such ``teacher``.
        RunError: it cannot judge this student.
    """
    if config.method in ("dmd", "self_forcing"):
        matching: dict[str, Any] = {
            "at": at,
            "weight": config.moved_weight,
            "critic_steps": config.critic_steps,
            "head_start": config.head_start,
            "seed": config.seed,
        }
        if config.teacher is None:
            return DMD(teacher, student, computer, **matching)
        judge = load_world(config.teacher)
        if judge.config.design == SEPARABLE:
            raise RunError(f"teacher={config.teacher} is of design scd, as world is: name one of design clip")
        forcing = Forcing(Design.parse(judge.config.design), judge.config.model, "diffusion", config.noise_shift)
        network = judge.network_on(next(teacher.parameters()).device, torch.float32)
        assert isinstance(network, DiT)
        method = AsymmetricDMD(student, network, forcing, computer, **matching)
        method.stretches.check(student.config.window, rolled)
        return method
    if config.method == "energy":
        return EnergyScore(teacher, student, computer, own_level=config.own_level)
    if config.method == "shortcut":
        return Shortcut(student, computer, weight=config.moved_weight, seed=config.seed)
    told: dict[str, Any] = {"teacher_at": teacher_at, "weight": config.moved_weight}
    if config.method == "consistency":
        return Consistency(teacher, student, computer, ema=config.ema, **told)
    told |= {"folder": folder / "trajectories", "kept": config.trajectories}
    return ODEInitialisation(teacher, student, computer, at=at, **told)
