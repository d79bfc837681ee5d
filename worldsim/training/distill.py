"""`worldsim distill`: a world that needs fewer denoising steps for what its teacher does in many."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldsim.checkpoint import named, part
from worldsim.engine.precision import pick_device
from worldsim.errors import RunError
from worldsim.locking import sole_writer
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.settings import command, from_dict, home
from worldsim.training.ancestry import collect_command, command_of, remember_parent
from worldsim.training.asymmetric import AsymmetricDMD
from worldsim.training.dmd import DMD
from worldsim.training.export import export
from worldsim.training.forcing import Forcing
from worldsim.training.loop import Loop, ReportConfig
from worldsim.training.loss import LossConfig
from worldsim.training.objective import OwnPool
from worldsim.training.optimizer import Optimizer, OptimizerConfig, schedule, update_ema
from worldsim.training.parallel import Ranks, ranks
from worldsim.training.regression import Consistency, ODEInitialisation
from worldsim.training.rehearsal import Rehearsal
from worldsim.training.replay import DecoderObjective, KeptConfig, Replay
from worldsim.training.sources import Source, drawn, rolled, streamed
from worldsim.training.teaching import Computer, Method
from worldsim.world import load_world

#: Ways to distil, and each one's learning rate: distribution matching, the same on the student's roll-outs, regression
#: to the ends of the teacher's trajectories, and consistency along them.
METHODS = {"dmd": 5e-5, "self_forcing": 5e-5, "ode": 3e-4, "consistency": 3e-4}


@dataclass(frozen=True)
class DistillConfig:
    """Everything `worldsim distill` is told; see configs/distill.yaml.

    Attributes:
        world: The teacher.
        method: One of :data:`METHODS`.
        teacher: For ``method=self_forcing``: a world of design ``clip`` that judges roll-outs over several frames at
            once; None: the decoder of ``world`` judges each frame.
        teacher_steps: Denoising steps of the teacher's solver, where the method follows it.
        trajectories: Steps whose trajectories are computed and kept, by ``method=ode``.
        lr: Of AdamW, on the student's decoder; None: as :data:`METHODS` says.
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
    data: Path | None = None
    run: Path | None = None
    steps: int = 1000
    batch: int | None = None
    clip: int | None = None
    seed: int = 0
    sampling_steps: int | None = None
    teacher_steps: int = 16
    trajectories: int = 100
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
        if self.teacher and self.method != "self_forcing":
            raise RunError(f"teacher={self.teacher} judges roll-outs: give method=self_forcing with it")
        if self.method == "ode" and self.teacher_steps % (self.sampling_steps or 1):
            raise RunError(
                f"teacher_steps={self.teacher_steps} is not a multiple of sampling_steps={self.sampling_steps}"
            )


class Distiller(Loop):
    """One distillation: student and critic, their optimisers, and how it goes on after a stop.

    Args:
        config: See :class:`DistillConfig`.
        place: This process among those that train together.
    """

    ema: WorldModel

    def __init__(self, config: DistillConfig, place: Ranks) -> None:
        self.config = config
        world = load_world(config.world)
        rolled = config.method == "self_forcing"
        self._batch = config.batch or (12 if rolled else 3)
        if rolled and config.clip is None:
            config = replace(config, clip=2 * world.config.model.window)
        steps = config.sampling_steps or world.config.steps
        super().__init__(config, place, world.name, f"{world.name}-distilled", steps)
        run = self.run
        self.shape = world.config.model
        self.clips = self.training_clips(self.shape.window)
        self.teacher = copy.deepcopy(world.model).float().to(self.device).requires_grad_(False).eval()
        self.student = self._decoding(requires_grad=True)
        self.ema = self._decoding(requires_grad=False)
        self.loss = LossConfig(
            draws=2 + config.critic_steps if config.method in ("dmd", "self_forcing") else 1,
            noise_shift=config.noise_shift,
            moved_weight=config.moved_weight,
            # A kept trajectory is of the history that it was computed from; a roll-out makes its own.
            own_share=0.0 if config.method in ("ode", "self_forcing") else config.own_share,
            own_level=config.own_level,
            own_steps=steps,
        )
        self.computer = Computer(self.dtype, config.compile)
        self.method = self._method(steps)
        rates = {"student": config.lr or METHODS[config.method], "critic": config.critic_lr}
        self._pool = OwnPool(self.loss)
        self._replay: Replay | None = None
        self._replayed: dict[str, Tensor] = {}  # of the checkpoint
        self.optimizers = {
            who: _adam(network, rates[who]) for who, network in self.method.networks.items() if who in rates
        }
        if place.leads:
            self._begin(world.name)
            if not run.checkpoint.exists():
                remember_parent(world, f"world={config.world}", run)
        if run.checkpoint.exists():
            self.load()

    def _decoding(self, requires_grad: bool) -> Any:
        """The teacher with a decoder of its own."""
        model = copy.copy(self.teacher)
        model._modules = dict(self.teacher._modules)
        model.decoder = copy.deepcopy(self.teacher.decoder).requires_grad_(requires_grad).train(requires_grad)
        return model

    def _method(self, steps: int) -> Method:
        config, student = self.config, cast(WorldModel, self.student)
        if config.method in ("dmd", "self_forcing"):
            matching: dict[str, Any] = {
                "steps": steps,
                "weight": config.moved_weight,
                "critic_steps": config.critic_steps,
                "head_start": config.head_start,
                "seed": config.seed,
            }
            if config.teacher is None:
                return DMD(self.teacher, student, self.computer, **matching)
            judge = load_world(config.teacher)
            if judge.config.design == SEPARABLE:
                raise RunError(f"teacher={config.teacher} is of design scd, as world is: name one of design clip")
            forcing = Forcing(Design.parse(judge.config.design), judge.config.model, "diffusion", config.noise_shift)
            network = judge.network_on(self.device, torch.float32)
            assert isinstance(network, DiT)
            method = AsymmetricDMD(student, network, forcing, self.computer, **matching)
            method.stretches.check(self.shape.window, self.clips.length - self.shape.window)
            return method
        told: dict[str, Any] = {"teacher_steps": config.teacher_steps, "weight": config.moved_weight}
        if config.method == "consistency":
            return Consistency(self.teacher, student, self.computer, ema=config.ema, **told)
        folder = self.run.folder / "trajectories"
        kept = config.trajectories
        return ODEInitialisation(self.teacher, student, self.computer, steps=steps, folder=folder, kept=kept, **told)

    def _begin(self, name: str) -> None:
        told = asdict(self.config) | {
            "world": name,
            "begun_from": self.config.world,
            "sampling_steps": self._sampling_steps,
            "model": asdict(self.shape),
            "batch": self._batch,
            "clip": self.clips.length,
            "data": str(self.dataset.folder.resolve()),
            "run": str(self.run.folder),
            "commands": {
                "collect": collect_command(self.dataset),
                "train": command_of("distill", asdict(self.config), asdict(DistillConfig())),
            },
        }
        where = "run", "commands", "device", "dtype", "compile", "threads", "report", "steps"
        self.run.begin(told, told["commands"]["train"], may_differ=where)

    def state(self) -> dict[str, Tensor]:
        """See :class:`~worldsim.training.loop.Loop`."""
        parts = {
            "ema": self.ema.state_dict(),
            **{who: network.state_dict() for who, network in self.method.networks.items()},
            **{f"adam-{who}": optimizer.state() for who, optimizer in self.optimizers.items()},
        }
        if self._replay:
            parts |= {"replay": self._replay.state(), "made": self._pool.state()}
        return {name: value for part_name, held in parts.items() for name, value in named(part_name, held).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See :class:`~worldsim.training.loop.Loop`."""
        self.ema.load_state_dict(part(tensors, "ema"))
        for who, network in self.method.networks.items():
            network.load_state_dict(part(tensors, who))
        for who, optimizer in self.optimizers.items():
            optimizer.load_state(part(tensors, f"adam-{who}"))
        self._pool.restore(part(tensors, "made"))
        self._replayed = part(tensors, "replay")

    def train(self) -> None:
        """Distil to the last step; a signal to end saves and leaves."""
        config = self.config
        if self.finished:
            return
        source = Source(
            self.teacher, cast(WorldModel, self.student), self.computer, self.clips, self.loss,
            seed=config.seed, places=self.place.places(self._batch), device=self.device,
        )  # fmt: skip
        ahead = range(self.step, config.steps)
        if config.method == "self_forcing":
            every = rolled(source, ahead, self._sampling_steps)
        elif config.method == "ode":
            every = streamed(source, ahead, config.trajectories)
        elif config.replay.clips:
            rehearsal = Rehearsal(
                self.teacher, DecoderObjective(self.teacher, self.loss, self.dtype, config.compile),
                source.objective(), self._pool, self.clips, self.loss, config.replay,
                batch=self._batch, seed=config.seed, place=self.place, device=self.device,
            )  # fmt: skip
            self._replay = rehearsal.replay
            rehearsal.begin(self.step, config.steps, self._replayed)
            every = drawn(source, ahead, rehearsal)
        else:
            every = streamed(source, ahead)
        scalars, held_out = self.scalars(), self.held_out()
        bar = self.bar(config.steps)
        for moments in every:
            step = moments.step
            parts = {who: self._move(who, loss, step) for who, loss in self.method.losses(moments)}
            if "student" in parts:
                young = step - config.head_start if "critic" in self.optimizers else step
                update_ema(self.ema.decoder.parameters(), self.student.decoder.parameters(), young, config.ema)
            self.step = step + 1
            bar.update()
            if self.step % 20 == 0 or step in (0, config.steps - 1):
                self.tell(bar, scalars, parts)
            self.report(scalars, held_out, config.steps)
            if self.keep(config.steps):
                break
        every.close()
        bar.close()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.step >= self.config.steps

    def _move(self, who: str, loss: Tensor, step: int) -> Tensor:
        """One step of an optimiser down a loss; the loss, detached."""
        optimizer = self.optimizers[who]
        loss.backward()  # type: ignore[no-untyped-call]
        network = self.method.networks[who]
        self.place.average([p.grad for p in network.parameters() if p.grad is not None])
        optimizer.step(schedule(step, self.config.steps, optimizer.config))
        return loss.detach()


def _adam(decoder: nn.Module, lr: float) -> Optimizer:
    """AdamW without momentum, as the moving target of a game between two wants it."""
    told = OptimizerConfig(muon_lr=0.0, adam_lr=lr, warmup=20, decay=0.5, betas=(0.0, 0.99))
    return Optimizer(decoder, told)


@command("distill")
def main(settings: dict[str, Any]) -> int | None:
    """The verb."""
    config = from_dict(DistillConfig, settings)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = config.run or home() / "runs" / f"{load_world(config.world).name}-distilled"
    folder.mkdir(parents=True, exist_ok=True)
    with ranks(pick_device(config.device)) as place, sole_writer(folder, RunError) if place.leads else nullcontext():
        distiller = Distiller(config, place)
        distiller.stop_on_signals()
        distiller.train()
        if not distiller.finished:
            return 130
        if place.leads:
            export(distiller.run)
            print(f"{distiller.run.world}: play it with `python play.py world={distiller.run.world}`")
    return None
