"""A run that teaches another design what :mod:`worldsim.training.trainer` teaches the one that is played."""

from __future__ import annotations

import copy
from contextlib import closing

import torch
from torch import Tensor

from worldsim.checkpoint import named, part
from worldsim.data.clips import ClipStore
from worldsim.errors import RunError
from worldsim.model.designs import Design
from worldsim.model.dit import DiT
from worldsim.training.batches import prefetched
from worldsim.training.forcing import Forcing, ForcingObjective, Levelled, held_out_error
from worldsim.training.loop import Loop
from worldsim.training.optimizer import Optimizer, schedule, update_ema
from worldsim.training.parallel import Ranks
from worldsim.training.pretrain_config import PretrainConfig, model_of, run_name, run_settings
from worldsim.training.standards import tell_standards


class DesignTrainer(Loop):
    """One run of another design: same clips, optimisers, schedule and pictures; frames alone, no reward and no end.

    Args:
        config: Its ``design`` is not ``scd``. Of the settings of the loss, ``noise_shift``, ``moved_weight``,
            ``hindsight`` and ``rewarded`` count.
        place: This process among those that train together.

    Raises:
        RunError: a setting that this design has no use for.
    """

    ema: DiT

    def __init__(self, config: PretrainConfig, place: Ranks) -> None:
        if config.init:
            raise RunError(f"init={config.init} is for design=scd: a run of design={config.design} begins from nothing")
        self.config = config
        design = Design.parse(config.design)
        super().__init__(config, place, config.world, run_name(config), config.sampling_steps, config.sampling_shift)
        self.design, self.shape = str(design), model_of(config, self.dataset)
        design.refuse_separable(self.shape)
        self.clips = self.training_clips(self.shape.window)
        loss, shift = config.loss, config.sampling_shift
        self.forcing = Forcing(design, self.shape, config.forcing, loss.noise_shift, loss.rewarded, shift)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = design.make(self.shape).to(self.device)
        tell_standards(self.network, self.clips, config.seed)
        self.ema = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = Optimizer(self.network, config.optimizer)
        if place.leads:
            told = run_settings(config, self)
            later = "steps", "replay", "outcomes", "sampling_steps"
            where = "run", "commands", "device", "dtype", "compile", "threads", "report"
            self.run.begin(told, told["commands"]["train"], may_differ=(*later, *where))
        if self.run.checkpoint.exists():
            self.load()

    def state(self) -> dict[str, Tensor]:
        """See :class:`~worldsim.training.loop.Loop`."""
        parts = {"model": self.network.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state()}
        return {name: value for part_name, held in parts.items() for name, value in named(part_name, held).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See :class:`~worldsim.training.loop.Loop`."""
        self.network.load_state_dict(part(tensors, "model"))
        self.ema.load_state_dict(part(tensors, "ema"))
        self.optimizer.load_state(part(tensors, "optimizer"))

    def train(self) -> None:
        """Train to the last step; a signal to end saves and leaves."""
        config, place = self.config, self.place
        if self.finished:
            return
        objective, taught = None, config.loss
        watch = self.watch(0, config.steps)
        parameters, places = list(self.network.parameters()), place.places(config.batch)

        shorts = self.shorts(config.shorts, self.clips, frames=self.forcing.stretch, given=self.forcing.given)

        def make(step: int) -> Levelled:
            if shorts and shorts.at(step):
                few = shorts.places(places)
                return self.forcing.batch(shorts.clips, config.seed, step, few, self.device)
            return self.forcing.batch(self.clips, config.seed, step, places, self.device)

        with closing(prefetched(make, range(self.step, config.steps), self.device)) as batches:
            for step, batch in batches:
                if objective is None or taught != config.loss.at(step / config.steps):
                    taught = config.loss.at(step / config.steps)
                    weight, known = taught.moved_weight, taught.hindsight
                    alike = self.dtype, config.compile
                    objective = ForcingObjective(self.network, self.forcing, weight, *alike, hindsight=known)
                loss = objective.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                place.average([p.grad for p in parameters if p.grad is not None])
                self.optimizer.step(schedule(step, config.steps, config.optimizer))
                update_ema(self.ema.parameters(), parameters, step, config.optimizer.ema)
                self.step = step + 1
                if self.stepped(watch, {"denoise": loss.detach()}):
                    break
        watch.bar.close()

    def error(self, held_out: ClipStore, clips: int) -> dict[str, float]:
        """See :class:`~worldsim.training.loop.Loop`."""
        return held_out_error(self.ema, self.forcing, held_out, clips)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.config.steps
