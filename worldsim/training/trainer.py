"""One pretraining run: its state, its two phases, what it shows of itself, and how it goes on after a stop."""

from __future__ import annotations

import copy
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2

from worldsim.checkpoint import all_finite, load_checkpoint, named, part, save_checkpoint
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.errors import DataError, RunError
from worldsim.model.config import ModelConfig
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.settings import from_dict, home
from worldsim.training.ancestry import adopt_weights, collect_command, train_command
from worldsim.training.batches import stream
from worldsim.training.export import build_world
from worldsim.training.grid import roll_out_grid
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective
from worldsim.training.optimizer import Optimizer, OptimizerConfig, schedule, update_ema
from worldsim.training.outcomes import OutcomesConfig, gather_contexts, outcome_loss
from worldsim.training.own import own_rows
from worldsim.training.parallel import Ranks
from worldsim.training.progress import Scalars, held_out_error
from worldsim.training.run import Run


@dataclass(frozen=True)
class ReportConfig:
    """How often a run saves and shows itself; none of it changes what is learned."""

    save_seconds: float = 60
    held_out_every: int = 500
    held_out_clips: int = 8
    grid_every: int = 1000
    grid_rows: int = 3
    grid_ticks: tuple[int, ...] = (1, 5, 10, 15, 20, 30, 45, 60)


@dataclass(frozen=True)
class PretrainConfig:
    """Everything `worldsim train` is told; see configs/train.yaml."""

    world: str
    data: Path | None = None
    run: Path | None = None
    init: str | None = None
    steps: int = 8000
    batch: int = 3
    clip: int | None = None
    seed: int = 0
    sampling_steps: int = 2
    device: str = "cpu"
    dtype: str | None = None
    compile: bool = True
    threads: int | None = None
    model: dict[str, Any] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    outcomes: OutcomesConfig = field(default_factory=OutcomesConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def frames(self, window: int) -> int:
        """Frames in a clip.

        Raises:
            RunError: fewer than two windows: a roll-out would see what training never showed.
        """
        frames = self.clip or 3 * window
        if frames < 2 * window:
            raise RunError(f"clip={frames} is less than two windows of {window} frames: give clip={2 * window} or more")
        return frames


class Trainer:
    """One pretraining run: state, resume, and the loop.

    Args:
        config: See :class:`PretrainConfig`.
        place: This process among those that train together.
    """

    def __init__(self, config: PretrainConfig, place: Ranks) -> None:
        self.config, self.place = config, place
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.dataset = Dataset.open(config.data or home() / "data" / config.world, skip_bad=True)
        source = self.dataset.config["source"]
        size = {"height": source["height"], "width": source["width"]}
        given = {name: value for name, value in config.model.items() if value is not None}
        eighth = source["height"] // 8
        if eighth and not source["height"] % eighth and not source["width"] % eighth:
            given = {"patch": eighth, **given}
        self.shape = from_dict(ModelConfig, {"num_actions": len(self.dataset.actions), **size, **given})
        self.run = Run(config.run or home() / "runs" / config.world)
        self.clips = ClipStore(self.dataset, self.dataset.train, config.frames(self.shape.window))
        self.model = init_weights(WorldModel(self.shape), config.seed).to(self.device)
        if config.init and not self.run.checkpoint.exists():
            adopt_weights(self.model, config.init, self.run)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = Optimizer(self.model, config.optimizer)
        self.step = 0
        self._stop = False
        self._saved = time.monotonic()
        if place.leads:
            self._begin()
        if self.run.checkpoint.exists():
            self.load()

    def stop_on_signals(self) -> None:
        """Make Ctrl-C and a polite kill save before they end the run."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)

    def _begin(self) -> None:
        config = self.config
        told = asdict(config) | {
            "model": asdict(self.shape),
            "clip": self.clips.length,
            "data": str(self.dataset.folder.resolve()),
            "run": str(self.run.folder),
            "commands": {
                "collect": collect_command(self.dataset),
                "train": train_command(asdict(config), asdict(PretrainConfig(config.world))),
            },
        }
        # What comes after the steps may be settled last.
        later = "steps", "outcomes", "sampling_steps"
        where = "run", "commands", "device", "dtype", "compile", "threads", "report"
        self.run.begin(told, told["commands"]["train"], may_differ=(*later, *where))

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises:
            RunError: it is truncated, foreign, or of another model.
        """
        tensors, facts = load_checkpoint(self.run.checkpoint)
        try:
            self.model.load_state_dict(part(tensors, "model"))
            self.ema.load_state_dict(part(tensors, "ema"))
            self.optimizer.load_state(part(tensors, "optimizer"))
        except (RuntimeError, KeyError) as error:
            raise RunError(f"{self.run.checkpoint} is of another model: give another run=<folder>") from error
        self.step = int(facts["step"])

    def save(self) -> None:
        """Write the whole state, atomically.

        Raises:
            RunError: the weights hold a NaN, or the disk is full. The last checkpoint is intact.
        """
        weights = self.model.state_dict()
        if not all_finite(weights):
            raise RunError(f"the weights hold NaN or infinity at step {self.step}: lower optimizer.muon_lr and resume")
        tensors = (
            named("model", weights) | named("ema", self.ema.state_dict()) | named("optimizer", self.optimizer.state())
        )
        save_checkpoint(self.run.checkpoint, tensors, {"step": self.step, "world": self.config.world})

    def train(self) -> None:
        """Train to the last step; a signal to end saves and leaves."""
        config, place = self.config, self.place
        if self.step >= config.steps:
            return
        from tqdm import tqdm

        objective = Objective(self.model, config.loss, self.dtype, config.compile)
        scalars = Scalars(self.run.folder / "tensorboard", self.step + 1) if place.leads else None
        held_out = self._held_out() if place.leads else None
        places, ahead = place.places(config.batch), range(self.step, config.steps)
        own = own_rows(places, config.loss.own_share)
        batches = stream(self.clips, self.shape, config.loss, config.seed, ahead, places, self.device)
        bar = tqdm(
            total=config.steps, initial=self.step, unit="step", disable=not place.leads, mininterval=5, smoothing=0.05
        )
        parameters = list(self.model.parameters())
        for step, batch in batches:
            begun = step >= config.loss.own_after * config.steps
            seen = objective.show(batch, own if begun else (), 1 + step % config.loss.own_ticks)
            loss, parts = objective.loss(batch, seen)
            loss.backward()
            place.average([p.grad for p in parameters if p.grad is not None])
            self.optimizer.step(schedule(step, config.steps, config.optimizer))
            update_ema(self.ema.parameters(), parameters, step, config.optimizer.ema)
            self.step = step + 1
            bar.update()
            if self.step % 20 == 0 or step in (0, config.steps - 1):
                place.average(parts.values())
                if scalars:
                    scalars.write(self.step, {f"loss/{name}": float(value) for name, value in parts.items()})
                bar.set_postfix_str(" ".join(f"{name} {float(value):.4f}" for name, value in parts.items()))
            if scalars and held_out:
                self._report(scalars, held_out)
            if self._keep(config.steps):
                break
        batches.close()
        bar.close()

    def finish_outcomes(self) -> None:
        """Train the outcome heads on the averaged, finished encoder; goes on where it stopped."""
        config, place = self.config, self.place
        last = config.steps + config.outcomes.steps
        if self._stop or not config.steps <= self.step < last:
            return
        from tqdm import tqdm

        if self.step == config.steps:
            self.model.load_state_dict(self.ema.state_dict())
        frozen = copy.deepcopy(self.ema).to(self.dtype).eval()
        heads = self.model.heads
        scalars = Scalars(self.run.folder / "tensorboard", self.step + 1) if place.leads else None
        quiet = not place.leads
        rounds = tqdm(range(config.outcomes.rounds), desc="contexts", unit="batch", disable=quiet, mininterval=5)
        places, steps = place.places(config.outcomes.batch), config.loss.own_steps
        contexts = gather_contexts(frozen, self.clips, config.seed + 1, rounds, places, steps)
        for step in tqdm(range(self.step, last), desc="outcomes", unit="step", disable=quiet, mininterval=5):
            loss = outcome_loss(self.model, contexts, config.seed, step)
            loss.backward()
            place.average([p.grad for p in heads.parameters() if p.grad is not None])
            rate = config.outcomes.lr / config.optimizer.adam_lr
            self.optimizer.step(rate * (last - step) / config.outcomes.steps)
            update_ema(self.ema.heads.parameters(), heads.parameters(), step, 0.98)
            self.step = step + 1
            if scalars and (self.step % 20 == 0 or self.step == last):
                scalars.write(self.step, {"loss/outcomes": float(loss.detach())})
            if self._keep(last):
                break

    def _keep(self, last: int) -> bool:
        """Save as often as wanted and at the end; whether to leave before it."""
        late = time.monotonic() - self._saved > self.config.report.save_seconds
        if self.place.leads and (late or self._stop or self.step == last):
            self.save()
            self._saved = time.monotonic()
        return self._stop

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.config.steps + self.config.outcomes.steps

    def _ask_to_stop(self, *_: object) -> None:
        self._stop = True

    def _held_out(self) -> ClipStore | None:
        length = self.shape.window + max(self.config.report.grid_ticks)
        try:
            return ClipStore(self.dataset, self.dataset.held_out, length)
        except DataError:
            return None  # none held out, or none long enough: train without pictures of it

    def _report(self, scalars: Scalars, held_out: ClipStore) -> None:
        report, last = self.config.report, self.step == self.config.steps
        if self.step % report.held_out_every == 0 or last:
            error = held_out_error(self.ema, held_out, report.held_out_clips)
            scalars.write(self.step, {f"held_out/{name}": value for name, value in error.items()})
            figures = ", ".join(f"{name} {value:.2f}" for name, value in error.items())
            print(f"\nstep {self.step}: held-out error {figures}", flush=True)
        if self.step % report.grid_every == 0 or last:
            world = build_world(self.config.world, self.ema, self.dataset, steps=self.config.sampling_steps)
            ticks = report.grid_ticks
            picture = roll_out_grid(world, held_out, self.shape.window, ticks, report.grid_rows)
            self.run.samples.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(self.run.samples / f"step_{self.step:06d}.png"), picture[..., ::-1])
