"""What every training has: a run folder that it goes on from, saving, a polite end, and pictures of how it goes."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
from torch import Tensor

from worldsim.checkpoint import all_finite, load_checkpoint, save_checkpoint
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.errors import DataError, RunError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.settings import home
from worldsim.training.export import build_world
from worldsim.training.grid import roll_out_grid
from worldsim.training.parallel import Ranks
from worldsim.training.progress import Scalars, held_out_error
from worldsim.training.run import Run
from worldsim.training.shorts import Shorts, ShortsConfig
from worldsim.vision.colours import ColourReader

OWN_PARTS = ("made", "replay")  # of a checkpoint: what each process has for itself


@dataclass(frozen=True)
class ReportConfig:
    """How often a run saves and shows itself; none of it changes what is learned."""

    save_seconds: float = 60
    held_out_every: int = 500
    held_out_clips: int = 8
    grid_every: int = 1000
    grid_rows: int = 3
    grid_ticks: tuple[int, ...] = (1, 5, 10, 15, 20, 30, 45, 60)


class RunConfig(Protocol):
    """What every training is told."""

    @property
    def data(self) -> Path | None:
        """Recorded play; None: that of the world in the home folder."""
        ...

    @property
    def run(self) -> Path | None:
        """The run's folder; None: a usual one."""
        ...

    @property
    def clip(self) -> int | None:
        """Frames in a clip; None: three windows."""
        ...

    @property
    def device(self) -> str:
        """Where it trains."""
        ...

    @property
    def dtype(self) -> str | None:
        """What it computes in; None: the fastest of the device."""
        ...

    @property
    def report(self) -> ReportConfig:
        """How often it saves and shows itself."""
        ...


@dataclass(frozen=True)
class Watch:
    """How a stretch of steps shows itself.

    Attributes:
        bar: Its progress bar.
        scalars, held_out: See :meth:`Loop.scalars` and :meth:`Loop.held_out`.
        first, last: Number of steps before it, and after it.
    """

    bar: Any
    scalars: Scalars | None
    held_out: ClipStore | None
    first: int
    last: int


class Loop(ABC):
    """One run.

    Args:
        config: See :class:`RunConfig`.
        place: This process among those that train together.
        name: Of the world that it makes.
        folder: Of the run, in ``runs/`` of the home folder, where the config names none.
        sampling_steps, sampling_shift: Denoising steps of the pictures, and the shift of their levels.

    Attributes:
        ema: The averaged model, which becomes the world.
        design: Of it.
        shape: Of the world.
        clips: What it learns from.
        step: Steps taken.
    """

    ema: WorldModel | DiT
    design = SEPARABLE
    shape: ModelConfig
    clips: ClipStore

    def __init__(
        self,
        config: RunConfig,
        place: Ranks,
        name: str,
        folder: str,
        sampling_steps: int,
        sampling_shift: float = 1.0,
    ) -> None:
        self.name, self.place = name, place
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.dataset = Dataset.open(config.data or home() / "data" / name, skip_bad=True)
        self.run = Run(config.run or home() / "runs" / folder)
        self._clip, self._how, self._sampling_steps = config.clip, config.report, sampling_steps
        self._sampling_shift = sampling_shift
        self.step = 0
        self._stop = False
        self._saved = self._begun = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """That the run has taken, all of its resumes together, as far as they were saved."""
        return self._before + time.monotonic() - self._begun

    def training_clips(self, window: int) -> ClipStore:
        """What it learns from.

        Raises:
            RunError: a clip has fewer than two windows: a roll-out would see what training never showed.
        """
        frames = self._clip or 3 * window
        if frames < 2 * window:
            raise RunError(f"clip={frames} is less than two windows of {window} frames: give clip={2 * window} or more")
        return ClipStore(self.dataset, self.dataset.train, frames)

    def shorts(
        self, how: ShortsConfig | None, clips: ClipStore, *, frames: int | None = None, given: int
    ) -> Shorts | None:
        """Short clips of the same play, see :meth:`Shorts.of`; None where none are wanted."""
        return Shorts.of(clips, how, self.reader(), frames=frames, given=given) if how else None

    def reader(self) -> ColourReader:
        """Sees the source's objects in frames.

        Raises:
            SourceError: it does not say how they look.
        """
        return ColourReader(self.dataset.config["source"].get("objects") or {}, self.shape.height, self.shape.width)

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that the run needs to go on, by name; the averaged model as ``ema.*``."""

    def own_state(self) -> dict[str, Tensor]:
        """What this process alone knows, of those that train together: its clips' own frames, and what it has kept.

        By names that begin with one of :data:`OWN_PARTS`.
        """
        return {}

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` and :meth:`own_state` gave.

        Raises:
            RuntimeError, KeyError: it is of another model.
        """

    def stop_on_signals(self) -> None:
        """Make Ctrl-C and a polite kill save before they end the run; a second one ends it at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)

    def load(self) -> None:
        """Continue from the checkpoint; without what other processes knew alone, if there were fewer or more of them.

        Raises:
            RunError: it is truncated, foreign, or of another model.
        """
        tensors, facts = load_checkpoint(self.run.checkpoint)
        if not self.place.leads:
            tensors = {name: one for name, one in tensors.items() if name.partition(".")[0] not in OWN_PARTS}
            share = self.run.share(self.place.rank, int(facts["step"]))
            tensors |= load_checkpoint(share)[0] if share.exists() else {}
        try:
            self.restore(tensors)
        except (RuntimeError, KeyError) as error:
            raise RunError(f"{self.run.checkpoint} is of another model: give another run=<folder>") from error
        self.step, self._before = int(facts["step"]), float(facts.get("seconds", 0.0))

    def save(self) -> None:
        """Write the whole state, atomically; all processes that train together do so at the same step.

        Raises:
            RunError: the weights hold a NaN, or the disk is full. The last checkpoint is intact.
        """
        facts = {"step": self.step, "world": self.name, "seconds": self.seconds}
        own = self.own_state()
        if own and not self.place.leads:
            save_checkpoint(self.run.share(self.place.rank, self.step), own, facts)
        self.place.wait()  # what belongs to a checkpoint is there before it
        if not self.place.leads:
            return
        tensors = self.state() | own
        if not all_finite(tensors):
            raise RunError(f"the weights hold NaN or infinity at step {self.step}: lower the learning rates and resume")
        save_checkpoint(self.run.checkpoint, tensors, facts)
        self.run.forget_shares(self.step)

    def keep(self, last: int) -> bool:
        """Save as often as wanted and at the end; whether to leave before it, because some process was asked to."""
        late = time.monotonic() - self._saved > self._how.save_seconds
        late, asked = self.place.any(late, self._stop)
        self._stop |= asked
        if late or self._stop or self.step == last:
            self.save()
            self._saved = time.monotonic()
        return self._stop

    def bar(self, last: int, **more: Any) -> Any:
        """A progress bar with ETA, of the leading process."""
        from tqdm import tqdm

        quiet = not self.place.leads
        return tqdm(total=last, initial=self.step, unit="step", disable=quiet, mininterval=5, smoothing=0.05, **more)

    def scalars(self) -> Scalars | None:
        """Where the leading process writes its figures."""
        return Scalars(self.run.folder / "tensorboard", self.step + 1) if self.place.leads else None

    def watch(self, first: int, last: int) -> Watch:
        """Begin a stretch of steps, from ``first`` to ``last`` of the run."""
        return Watch(self.bar(last), self.scalars(), self.held_out(), first, last)

    def stepped(self, watch: Watch, parts: dict[str, Tensor]) -> bool:
        """What follows every step: losses are told, pictures drawn and weights kept when they are due.

        Args:
            watch: See :meth:`watch`.
            parts: Losses, by name.

        Returns:
            Whether to leave.
        """
        watch.bar.update()
        if self.step % 20 == 0 or self.step in (watch.first + 1, watch.last):
            self.tell(watch.bar, watch.scalars, parts)
        self.report(watch.scalars, watch.held_out, watch.last)
        return self.keep(watch.last)

    def tell(self, bar: Any, scalars: Scalars | None, parts: dict[str, Tensor]) -> None:
        """Show the means of some losses over all processes, and write them down."""
        self.place.average(parts.values())
        if scalars:
            scalars.write(self.step, {f"loss/{name}": float(value) for name, value in parts.items()})
        bar.set_postfix_str(" ".join(f"{name} {float(value):.4f}" for name, value in parts.items()))

    def held_out(self) -> ClipStore | None:
        """Clips for pictures; None where none was held out, or none is long enough."""
        if not self.place.leads:
            return None
        try:
            length = self.shape.window + max(self._how.grid_ticks)
            return ClipStore(self.dataset, self.dataset.held_out, length)
        except DataError:
            return None

    def report(self, scalars: Scalars | None, held_out: ClipStore | None, last: int) -> None:
        """Held-out error and the roll-out grid, when they are due."""
        if not scalars or not held_out:
            return
        how, ended = self._how, self.step == last
        if self.step % how.held_out_every == 0 or ended:
            error = self.error(held_out, how.held_out_clips)
            scalars.write(self.step, {f"held_out/{name}": value for name, value in error.items()})
            figures = ", ".join(f"{name} {value:.2f}" for name, value in error.items())
            print(f"\nstep {self.step}: held-out error {figures}", flush=True)
        if self.step % how.grid_every == 0 or ended:
            world = build_world(
                self.name,
                self.shape,
                self.ema,
                self.dataset,
                steps=self._sampling_steps,
                shift=self._sampling_shift,
                design=self.design,
            )
            picture = roll_out_grid(world, held_out, self.shape.window, how.grid_ticks, how.grid_rows)
            self.run.samples.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(self.run.samples / f"step_{self.step:06d}.png"), picture[..., ::-1])

    def error(self, held_out: ClipStore, clips: int) -> dict[str, float]:
        """What is said of so many held-out clips, by name."""
        assert isinstance(self.ema, WorldModel)
        return held_out_error(self.ema, held_out, clips)

    def _asked_to_stop(self) -> bool:
        """Whether some process was."""
        (self._stop,) = self.place.any(self._stop)
        return self._stop

    def _ask_to_stop(self) -> None:
        self._stop = True

    def _signalled(self, number: int, _: object) -> None:
        self._ask_to_stop()
        # A step may be minutes away: what a stretch learns from is read and judged before its first one.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
