"""One pretraining run: its state and its phases."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import compress, takewhile

import torch
from torch import Tensor

from worldsim.checkpoint import named, part
from worldsim.engine.sampler import levels
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.ancestry import adopt_weights
from worldsim.training.batches import stream
from worldsim.training.crops import Crops
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.erasing import Eraser
from worldsim.training.export import start_episodes
from worldsim.training.kept import KeptConfig, MomentsConfig
from worldsim.training.loop import Loop
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective, OwnPool
from worldsim.training.optimizer import Optimizer, schedule, update_ema
from worldsim.training.outcomes import gather_contexts, outcome_loss, overdrawn
from worldsim.training.own import own_rows, whole_clips
from worldsim.training.parallel import Ranks
from worldsim.training.pretrain_config import PretrainConfig, model_of, run_name, run_settings
from worldsim.training.rehearsal import Rehearsal, arrivals
from worldsim.training.standards import tell_standards
from worldsim.training.turns import Turns


class Trainer(Loop):
    """One pretraining run: state, resume, and its phases.

    Args:
        config: See :class:`~worldsim.training.pretrain_config.PretrainConfig`.
        place: This process among those that train together.
    """

    ema: WorldModel

    def __init__(self, config: PretrainConfig, place: Ranks) -> None:
        self.config = config
        super().__init__(config, place, config.world, run_name(config), config.sampling_steps, config.sampling_shift)
        run = self.run
        self.loss = replace(config.loss, own_share=whole_clips(config.loss.own_share, config.batch))
        self.shape = model_of(config, self.dataset)
        self.clips = self.training_clips(self.shape.window)
        start_episodes(self.dataset, self.shape)  # what the world will begin with is there
        self.model = init_weights(WorldModel(self.shape), config.seed).to(self.device)
        if not config.init:
            tell_standards(self.model, self.clips, config.seed)
        elif not run.checkpoint.exists():
            adopt_weights(self.model, config.init, run, anew=("age_bias", "age_value") if config.first else ())
        if config.first:
            self.model.encoder.rest()
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = Optimizer(self.model, config.optimizer)
        self._pool = OwnPool(self.loss)
        self._rehearsal: Rehearsal | None = None
        self._replayed: dict[str, Tensor] = {}  # of the checkpoint
        if place.leads:
            self._begin()
        if run.checkpoint.exists():
            self.load()

    def _begin(self) -> None:
        told = run_settings(self.config, self)
        # How long its stretches last may be settled while it runs, and what comes later, last.
        later = "steps", "moments", "replay", "outcomes", "sampling_steps", "sampling_shift"
        where = "run", "commands", "device", "dtype", "compile", "threads", "report"
        self.run.begin(told, told["commands"]["train"], may_differ=(*later, *where))

    def state(self) -> dict[str, Tensor]:
        """See :class:`~worldsim.training.loop.Loop`."""
        parts = {"model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state()}
        return {name: value for part_name, held in parts.items() for name, value in named(part_name, held).items()}

    def own_state(self) -> dict[str, Tensor]:
        """See :class:`~worldsim.training.loop.Loop`."""
        return named("made", self._pool.state()) | named("replay", self._rehearsal.state() if self._rehearsal else {})

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See :class:`~worldsim.training.loop.Loop`."""
        self.model.load_state_dict(part(tensors, "model"))
        self.ema.load_state_dict(part(tensors, "ema"))
        self.optimizer.load_state(part(tensors, "optimizer"))
        self._pool.restore(part(tensors, "made"))
        self._replayed = part(tensors, "replay")

    def begin_decoder(self) -> None:
        """Train the decoder on single moments of recorded play; goes on where it stopped.

        The encoder rests: until the whole model learns, its tokens tell where they are and which action came before.
        """
        how = self.config.moments
        if how is None or self._stop or self.step >= self.config.first:
            return
        self._pool.begun = arrivals(math.ceil(how.own_after * how.steps), how, self.config.batch)
        loss = replace(self.loss, own_share=whole_clips(how.own_share, self.config.batch))
        rates = (schedule(step, how.steps, self.config.optimizer) for step in range(self.step, how.steps))
        self._rehearse(how, loss, range(how.steps), self.config.seed + 3, rates, blind=True)

    def train(self) -> None:
        """Train the whole model to the last of its steps; a signal to end saves and leaves."""
        config, place = self.config, self.place
        first = config.first
        if self._stop or not first <= self.step < first + config.steps:
            return
        if self.step == first:
            self.model.load_state_dict(self.ema.state_dict())
            self._pool.clear()
        self._pool.begun = math.ceil(self.loss.own_after * config.steps)
        objective, taught = None, self.loss
        places, ahead = place.places(config.batch), range(self.step - first, config.steps)
        own = own_rows(places, self.loss.own_share)
        begun = self._pool.begun
        shorts = self.shorts(config.shorts, self.clips, given=self.shape.history)
        batches = stream(self.clips, self.shape, self.loss, config.seed, ahead, places, self.device, begun, shorts)
        watch = self.watch(first, first + config.steps)
        rate = config.moments.then if config.moments and first else 1.0
        parameters = list(self.model.parameters())
        for step, batch in batches:
            if objective is None or taught != self.loss.at(step / config.steps):
                taught = self.loss.at(step / config.steps)
                objective = Objective(self.model, taught, self.dtype, config.compile)
            seen = self._pool.show(objective, batch, () if shorts and shorts.at(step) else own, step)
            loss, parts = objective.loss(batch, seen)
            loss.backward()
            place.average([p.grad for p in parameters if p.grad is not None])
            self.optimizer.step(rate * schedule(step, config.steps, config.optimizer), decoder=config.decoder)
            update_ema(self.ema.parameters(), parameters, step, config.optimizer.ema)
            self.step = first + step + 1
            if self.stepped(watch, parts):
                break
        batches.close()
        watch.bar.close()

    def finish_decoder(self) -> None:
        """Train the decoder alone on kept contexts of the averaged, finished encoder; goes on where it stopped."""
        config, how = self.config, self.config.replay
        begun = config.first + config.steps
        if self._stop or not begun <= self.step < begun + how.steps:
            return
        if self.step == begun:
            self.model.load_state_dict(self.ema.state_dict())
            self._pool.clear()
        self._pool.begun = 0
        warm = max(1, config.optimizer.warmup)
        rates = (
            how.rate * min(1.0, (step + 1) / warm) * (1 - step / how.steps)
            for step in range(self.step - begun, how.steps)
        )
        steps = range(begun, begun + how.steps)
        self._rehearse(how, self.loss, steps, config.seed + 2, rates)

    def _unmixing(self, about: Sequence[str]) -> Tensor | None:
        """What tells errors of some of the source's objects from others; None: all count."""
        if not about:
            return None
        return torch.from_numpy(self.reader().unmixing(about)).to(self.device)

    def _turns(self, how: KeptConfig, loss: LossConfig) -> tuple[Turns, float] | None:
        """What the decoder learns from beside clips, and the share of it."""
        if not isinstance(how, MomentsConfig) or not how.turned_share:
            return None
        found = Turns(self.clips, self.model, self.reader(), how.about, untold=loss.untold, device=self.device)
        return found, how.turned_share

    def _rehearse(
        self,
        how: KeptConfig,
        loss: LossConfig,
        steps: range,
        seed: int,
        rates: Iterable[float],
        *,
        blind: bool = False,
    ) -> None:
        """Train on kept frames.

        Args:
            how: What is kept and drawn.
            loss: Of it.
            steps: Of the run, all of this stretch.
            seed: Of everything.
            rates: Of each step that is left.
            blind: Whether without the encoder's eyes and memory.
        """
        config, place, begun = self.config, self.place, steps.start
        crops = Crops(self.shape, how.crop) if how.crop else None
        model = self.model
        unmix = self._unmixing(how.about)
        objective = DecoderObjective(model, loss, self.dtype, config.compile, crops, blind=blind, unmix=unmix)
        shows = Objective(model, loss, self.dtype, config.compile, blind=blind)
        rehearsal = Rehearsal(
            model, objective, shows, self._pool, self.clips, loss, how,
            batch=config.batch, seed=seed, place=place, device=self.device, turns=self._turns(how, loss),
            eraser=Eraser(model, self.reader(), how.erased) if how.erased else None,
        )  # fmt: skip
        rehearsal.begin(self.step - begun, len(steps), self._replayed)
        self._rehearsal = rehearsal
        watch = self.watch(begun, steps.stop)
        weights, average = (
            [one for name, one in of.named_parameters() if name.startswith(("decoder.", *["encoder."] * blind))]
            for of in (model, self.ema)
        )
        learning: list[bool] = []
        for step, rate in zip(range(self.step - begun, len(steps)), rates, strict=True):
            drawn = rehearsal.draw(step, 1)
            t = torch.from_numpy(drawn.levels[0]).to(self.device)
            noise = drawn.noise[0]
            if len(drawn.others[0]):
                every = torch.cat((noise[None], drawn.others[0]))
                noise = objective.choose(drawn.frames, t, every, drawn.lots[0], drawn.squares)
            loss_now = objective.loss(drawn.frames, drawn.worth, t, noise, drawn.squares, drawn.least)
            loss_now.backward()
            if not learning:  # most of a resting encoder does not; averaging it, too, took 7 % of a step
                learning = [p.grad is not None for p in weights]
                weights, average = (list(compress(of, learning)) for of in (weights, average))
            place.average([p.grad for p in weights if p.grad is not None])
            self.optimizer.step(rate)
            update_ema(average, weights, step, config.optimizer.ema)
            self.step = begun + step + 1
            if self.stepped(watch, {"decoder": loss_now.detach()}):
                break
        rehearsal.close()
        watch.bar.close()
        if self.step == steps.stop:
            self._rehearsal, self._replayed = None, {}

    def finish_outcomes(self) -> None:
        """Train the outcome heads on the averaged, finished encoder; goes on where it stopped."""
        config, place = self.config, self.place
        begun = config.first + config.steps + config.replay.steps
        last = begun + config.outcomes.steps
        if self._stop or not begun <= self.step < last:
            return
        from tqdm import tqdm

        if self.step == begun:
            self.model.load_state_dict(self.ema.state_dict())
            if config.outcomes.anew:
                fresh = init_weights(WorldModel(self.shape), config.seed + 1).heads.state_dict()
                self.model.heads.load_state_dict(fresh)
                self.ema.heads.load_state_dict(fresh)
        frozen = copy.deepcopy(self.ema).to(self.dtype).eval()
        heads = self.model.heads
        scalars, quiet = self.scalars(), not place.leads
        rounds = tqdm(range(config.outcomes.rounds), desc="contexts", unit="batch", disable=quiet, mininterval=5)
        places, at = place.places(config.outcomes.batch), levels(config.sampling_steps, config.sampling_shift)
        wanted = takewhile(lambda number: not (self._asked_to_stop() and number), rounds)
        contexts = gather_contexts(frozen, self.clips, config.seed + 1, wanted, places, at)
        if self._stop:
            return  # gathering takes minutes, and leaves nothing to save
        often = overdrawn(contexts, self.clips, config.seed, place.average)
        for step in tqdm(range(self.step, last), desc="outcomes", unit="step", disable=quiet, mininterval=5):
            loss = outcome_loss(self.model, contexts, config.seed, step, self.dtype, often)
            loss.backward()
            place.average([p.grad for p in heads.parameters() if p.grad is not None])
            rate = config.outcomes.lr / config.optimizer.adam_lr
            self.optimizer.step(rate * (last - step) / config.outcomes.steps)
            update_ema(self.ema.heads.parameters(), heads.parameters(), step, 0.98)
            self.step = step + 1
            if scalars and (self.step % 20 == 0 or self.step == last):
                scalars.write(self.step, {"loss/outcomes": float(loss.detach())})
            if self.keep(last):
                break

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        config = self.config
        return self.step >= config.first + config.steps + config.replay.steps + config.outcomes.steps
