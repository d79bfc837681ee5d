"""`worldsim distill`: a world that needs fewer denoising steps for what its teacher does in many."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldsim.checkpoint import named, part
from worldsim.engine.precision import pick_device
from worldsim.engine.sampler import levels
from worldsim.errors import RunError
from worldsim.locking import sole_writer
from worldsim.model.world_model import WorldModel
from worldsim.settings import command, defaults, from_dict, home
from worldsim.training.ancestry import check_shape, collect_command, command_of, remember_parents
from worldsim.training.computing import Computer
from worldsim.training.crops import Crops
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.distillation.methods import METHODS, DistillConfig, make_method
from worldsim.training.distillation.sources import Source, drawn, rolled, streamed
from worldsim.training.export import export
from worldsim.training.loop import Loop
from worldsim.training.loss import LossConfig
from worldsim.training.objective import OwnPool
from worldsim.training.optimizer import Optimizer, OptimizerConfig, schedule, update_ema
from worldsim.training.own import whole_clips
from worldsim.training.parallel import Ranks, ranks
from worldsim.training.rehearsal import Rehearsal
from worldsim.training.replay import Replay
from worldsim.world import World, load_world


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
        shift = world.config.shift if config.sampling_shift is None else config.sampling_shift
        self._at, solver = levels(steps, shift), levels(config.teacher_steps, world.config.shift)
        if config.method == "shortcut" and shift != 1:
            raise RunError(f"shortcuts are steps of even sizes: give sampling_shift=1, not {shift:g}")
        if config.method == "ode" and not set(self._at) <= set(solver):
            raise RunError(
                f"method=ode keeps points of the teacher's solver: give sampling_shift={world.config.shift:g} and a "
                f"teacher_steps that is a multiple of {steps}"
            )
        super().__init__(config, place, world.name, f"{world.name}-distilled", steps, shift)
        run = self.run
        self.shape = world.config.model
        if self.shape.shortcut:
            raise RunError(f"world={config.world} takes shortcuts already: distil the one that it was made from")
        if config.method == "shortcut":
            self.shape = replace(self.shape, shortcut=config.teacher_steps)
        self.clips = self.training_clips(self.shape.window)
        self.teacher = copy.deepcopy(world.model).float().to(self.device).requires_grad_(False).eval()
        self.student = self._decoding(requires_grad=True)
        self.ema = self._decoding(requires_grad=False)
        init = self._adopt(config.init) if config.init else {}
        self.loss = LossConfig(
            draws=config.draws,
            noise_shift=config.noise_shift,
            moved_weight=config.moved_weight,
            # A kept trajectory is of the history that it was computed from; a roll-out makes its own.
            own_share=0.0 if config.method in ("ode", "self_forcing") else whole_clips(config.own_share, self._batch),
            own_level=config.own_level,
            own_steps=steps,
            own_shift=shift,
        )
        self.computer = Computer(self.dtype, config.compile)
        teacher, learner = self.teacher, cast(WorldModel, self.student)
        if config.replay.crop and config.keeps:
            teacher, learner = (Crops(one.config, config.replay.crop).within(one) for one in (teacher, learner))
        ahead = self.clips.length - self.shape.window
        self.method = make_method(config, teacher, learner, self.computer, self._at, solver, ahead, run.folder)
        rates = {"student": config.lr or METHODS[config.method], "critic": config.critic_lr}
        self._pool = OwnPool(self.loss)
        self._replay: Replay | None = None
        self._replayed: dict[str, Tensor] = {}  # of the checkpoint
        self.optimizers = {
            who: _mover(network, rates[who], config.method)
            for who, network in self.method.networks.items()
            if who in rates
        }
        if place.leads:
            self._begin(world.name)
            if not run.checkpoint.exists():
                remember_parents(run, {f"world={config.world}": world, **init})
        if run.checkpoint.exists():
            self.load()

    def _decoding(self, requires_grad: bool) -> Any:
        """The teacher with a decoder of its own, of :attr:`shape`."""
        model, decoder = copy.copy(self.teacher), WorldModel(self.shape).decoder.to(self.device)
        decoder.load_state_dict(decoder.state_dict() | self.teacher.decoder.state_dict())  # what is new begins as it is
        model._modules = dict(self.teacher._modules)
        model.config, model.decoder = self.shape, decoder.requires_grad_(requires_grad).train(requires_grad)
        return model

    def _adopt(self, name: str) -> dict[str, World]:
        """Have the student begin with a distilled world's decoder.

        Raises:
            WorldError: there is no such world.
            RunError: it has another shape, or another encoder than the teacher.
        """
        world = load_world(name)
        check_shape(world, name, self.shape)
        ours, theirs = self.teacher.encoder.state_dict(), world.model.encoder.state_dict()
        if not all(torch.equal(weight.cpu(), theirs[key].float()) for key, weight in ours.items()):
            raise RunError(f"init={name} has another encoder than world={self.config.world}: distil it from that first")
        for model in (self.student, self.ema):
            model.decoder.load_state_dict(world.model.decoder.state_dict())
        return {f"init={name}": world}

    def _begin(self, name: str) -> None:
        usual = asdict(from_dict(DistillConfig, defaults("distill")))
        told = asdict(self.config) | {
            "world": name,
            "begun_from": self.config.world,
            "sampling_steps": self._sampling_steps,
            "sampling_shift": self._sampling_shift,
            "model": asdict(self.shape),
            "batch": self._batch,
            "clip": self.clips.length,
            "data": str(self.dataset.folder.resolve()),
            "run": str(self.run.folder),
            "commands": {
                "collect": collect_command(self.dataset),
                "train": command_of("distill", asdict(self.config), usual),
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
        return {name: value for part_name, held in parts.items() for name, value in named(part_name, held).items()}

    def own_state(self) -> dict[str, Tensor]:
        """See :class:`~worldsim.training.loop.Loop`."""
        if not self._replay:
            return {}
        return named("replay", self._replay.state()) | named("made", self._pool.state())

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
            every = rolled(source, ahead, self._at)
        elif config.method == "ode":
            every = streamed(source, ahead, config.trajectories)
        elif config.keeps:
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
        watch = self.watch(0, config.steps)
        for moments in every:
            step = moments.step
            parts = {who: self._move(who, loss, step) for who, loss in self.method.losses(moments)}
            if "student" in parts:
                young = step - config.head_start if "critic" in self.optimizers else step
                update_ema(self.ema.decoder.parameters(), self.student.decoder.parameters(), young, config.ema)
            self.step = step + 1
            if self.stepped(watch, parts):
                break
        every.close()
        watch.bar.close()

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


def _mover(decoder: nn.Module, lr: float, method: str) -> Optimizer:
    """Muon beside AdamW for a score of recorded play; AdamW without momentum where the target moves, too."""
    if method == "energy":
        return Optimizer(decoder, OptimizerConfig(muon_lr=20 * lr, adam_lr=lr, warmup=20, decay=0.8))
    return Optimizer(decoder, OptimizerConfig(muon_lr=0.0, adam_lr=lr, warmup=20, decay=0.5, betas=(0.0, 0.99)))


@command("distill")
def main(settings: dict[str, Any]) -> int | None:
    """Teaches a world to do with one step or two what takes it many: another world that can be played."""
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
