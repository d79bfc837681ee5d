"""`worldsim distill`: a world that needs fewer denoising steps for what its teacher does in many."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.checkpoint import named, part
from worldsim.engine.precision import pick_device
from worldsim.errors import RunError
from worldsim.locking import sole_writer
from worldsim.settings import command, from_dict, home
from worldsim.training.ancestry import collect_command, command_of, remember_parent
from worldsim.training.batches import stream
from worldsim.training.dmd import Distillation
from worldsim.training.export import export
from worldsim.training.loop import Loop, ReportConfig
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective
from worldsim.training.optimizer import Optimizer, OptimizerConfig, schedule, update_ema
from worldsim.training.own import own_rows
from worldsim.training.parallel import Ranks, ranks
from worldsim.world import load_world


@dataclass(frozen=True)
class DistillConfig:
    """Everything `worldsim distill` is told; see configs/distill.yaml.

    Attributes:
        world: The teacher.
        lr, critic_lr: Of AdamW, on the student's and the critic's decoder.
        critic_steps: Of the critic, for each of the student's (the two time scales of DMD2, arXiv 2405.14867).
        head_start: Steps in which only the critic learns.
        own_share, own_level: Of the student's own frames as history, see
            :class:`~worldsim.training.loss.LossConfig`.
    """

    world: str = "pong"
    data: Path | None = None
    run: Path | None = None
    steps: int = 1000
    batch: int = 3
    clip: int | None = None
    seed: int = 0
    sampling_steps: int | None = None
    lr: float = 5e-5
    critic_lr: float = 2e-4
    critic_steps: int = 2
    head_start: int = 50
    ema: float = 0.99
    noise_shift: float = 1.0
    changed_weight: float = 16.0
    own_share: float = 0.67
    own_level: float = 0.5
    device: str = "cpu"
    dtype: str | None = None
    compile: bool = True
    threads: int | None = None
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "critic_steps"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, not {getattr(self, name)}")


class Distiller(Loop):
    """One distillation: student and critic, their optimisers, and how it goes on after a stop.

    Args:
        config: See :class:`DistillConfig`.
        place: This process among those that train together.
    """

    def __init__(self, config: DistillConfig, place: Ranks) -> None:
        self.config = config
        world = load_world(config.world)
        steps = config.sampling_steps or world.config.steps
        super().__init__(config, place, world.name, f"{world.name}-distilled", steps)
        run = self.run
        self.shape = world.config.model
        self.clips = self.training_clips(self.shape.window)
        self.teacher = copy.deepcopy(world.model).float().to(self.device).requires_grad_(False).eval()
        self.student = self._decoding(requires_grad=True)
        self.ema = self._decoding(requires_grad=False)
        self.critic = copy.deepcopy(self.teacher.decoder).requires_grad_(True).train()
        self.loss = LossConfig(
            draws=2 + config.critic_steps,
            noise_shift=config.noise_shift,
            changed_weight=config.changed_weight,
            own_share=config.own_share,
            own_level=config.own_level,
            own_steps=steps,
        )
        self.optimizers = {
            "student": _adam(self.student.decoder, config.lr, config),
            "critic": _adam(self.critic, config.critic_lr, config),
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

    def _begin(self, name: str) -> None:
        told = asdict(self.config) | {
            "world": name,
            "teacher": self.config.world,
            "sampling_steps": self._sampling_steps,
            "model": asdict(self.shape),
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
            "student": self.student.decoder.state_dict(),
            "critic": self.critic.state_dict(),
            **{f"adam-{who}": optimizer.state() for who, optimizer in self.optimizers.items()},
        }
        return {name: value for part_name, held in parts.items() for name, value in named(part_name, held).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See :class:`~worldsim.training.loop.Loop`."""
        self.ema.load_state_dict(part(tensors, "ema"))
        self.student.decoder.load_state_dict(part(tensors, "student"))
        self.critic.load_state_dict(part(tensors, "critic"))
        for who, optimizer in self.optimizers.items():
            optimizer.load_state(part(tensors, f"adam-{who}"))

    def train(self) -> None:
        """Distil to the last step; a signal to end saves and leaves."""
        config, place = self.config, self.place
        if self.finished:
            return
        objective = Objective(self.student, self.loss, self.dtype, config.compile)
        distillation = Distillation(
            self.teacher,
            self.student,
            self.critic,
            steps=self._sampling_steps,
            weight=config.changed_weight,
            dtype=self.dtype,
            compiled=config.compile,
        )
        scalars, held_out = self.scalars(), self.held_out()
        places = place.places(config.batch)
        own = own_rows(places, config.own_share)
        ahead = range(self.step, config.steps)
        batches = stream(self.clips, self.shape, self.loss, config.seed, ahead, places, self.device)
        bar = self.bar(config.steps)
        for step, batch in batches:
            seen = objective.show(batch, own)
            context, last = distillation.contexts(seen, self.student.previous_actions(batch.actions))
            action = batch.actions.flatten()
            noise = [one.flatten(0, 1).to(self.dtype) for one in batch.noise.unbind(1)]
            t = [one.flatten().to(self.dtype) for one in batch.t.unbind(1)]
            exit_step = int(np.random.default_rng((config.seed, step)).integers(self._sampling_steps))
            made = distillation.make(exit_step, context, last, action, noise[0])
            parts: dict[str, Tensor] = {}
            for k in range(config.critic_steps):
                parts["critic"] = self._move(
                    "critic", distillation.critic_loss(made, context, last, action, t[2 + k], noise[2 + k]), step
                )
            if step >= config.head_start:
                loss = distillation.student_loss(made, context, last, action, t[1], noise[1])
                parts["student"] = self._move("student", loss, step)
                update_ema(
                    self.ema.decoder.parameters(),
                    self.student.decoder.parameters(),
                    step - config.head_start,
                    config.ema,
                )
            self.step = step + 1
            bar.update()
            if self.step % 20 == 0 or step in (0, config.steps - 1):
                self.tell(bar, scalars, parts)
            self.report(scalars, held_out, config.steps)
            if self.keep(config.steps):
                break
        batches.close()
        bar.close()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.step >= self.config.steps

    def _move(self, who: str, loss: Tensor, step: int) -> Tensor:
        """One step of an optimiser down a loss; the loss, detached."""
        optimizer = self.optimizers[who]
        loss.backward()  # type: ignore[no-untyped-call]
        model: nn.Module = self.critic if who == "critic" else self.student.decoder
        self.place.average([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step(schedule(step, self.config.steps, optimizer.config))
        return loss.detach()


def _adam(decoder: nn.Module, lr: float, config: DistillConfig) -> Optimizer:
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
