"""What every part of an evaluation shares: the world, the real game, the moments, and who judges."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldsim.data.episodes import Dataset
from worldsim.envs.sources import Source, SourceConfig, make_source
from worldsim.errors import DataError, WorldError
from worldsim.evaluation.inverse import Effects, effects
from worldsim.evaluation.learning import Lesson
from worldsim.evaluation.moments import Moment, clones, spread_moments
from worldsim.evaluation.probe import StateProbe
from worldsim.evaluation.roll_outs import DreamSettings, branch, dream
from worldsim.schema import from_dict
from worldsim.vision.colours import ColourReader, tells_apart
from worldsim.vision.reading import Reader
from worldsim.vision.tiles import TileReader
from worldsim.world import World


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        roll_outs: Dreams of recorded play.
        seconds: Length of each.
        control_moments: Moments from which every action is tried.
        motion_clips: Stretches of four windows of held-out play, followed one frame ahead.
        outcome_ticks: Held-out ticks judged for rewards at most; 0 for all.
        serves, futures: Moments before a ball is served, and how many futures of each are dreamed.
        drift_minutes, drift_rows: Length and number of dreams under each policy.
        drift_policies: Of these alone, by name; None: every one.
        drift_window: Seconds over which rates are taken.
        drift_last: Seconds at the end that the bar looks at.
        drift_early: Second from which on as many are what the end is held against.
        lesson: For the judging networks.
    """

    roll_outs: int = 64
    seconds: float = 4.0
    control_moments: int = 24
    motion_clips: int = 128
    outcome_ticks: int = 0
    serves: int = 8
    futures: int = 64
    drift_minutes: float = 2.0
    drift_rows: int = 4
    drift_policies: tuple[str, ...] | None = None
    drift_window: float = 10.0
    drift_last: float = 30.0
    drift_early: float = 10.0
    lesson: Lesson = dataclasses.field(default_factory=Lesson)


@dataclass(frozen=True, eq=False)
class RollOuts:
    """Recorded play and the dream of it.

    Attributes:
        actions: int64 [T, N].
        before: The last frame before, uint8 [N, H, W, 3].
        real, dreamed: uint8 [T, N, H, W, 3].
    """

    moments: list[Moment]
    actions: NDArray[np.int64]
    before: NDArray[np.uint8]
    real: NDArray[np.uint8]
    dreamed: NDArray[np.uint8]


class Subject:
    """A world under evaluation.

    Args:
        world: The world.
        dataset: Recorded play of the real game; its held-out episodes judge.
        source: The real game's config.
        extent: How much is measured.
        settings: How the world is run; its seed is the evaluation's.
        quiet: Show no progress.

    Raises:
        WorldError: the world and the recording do not belong together.
    """

    def __init__(
        self,
        world: World,
        dataset: Dataset,
        source: SourceConfig,
        extent: Extent,
        settings: DreamSettings,
        quiet: bool = False,
    ) -> None:
        shape = (source.height, source.width)
        model = world.config.model
        if dataset.actions != world.actions or shape != (model.height, model.width):
            raise WorldError(
                f"world {world.name!r} was not learned from recordings such as {dataset.folder}: "
                "actions or frame sizes differ; name the right one with data="
            )
        self.world, self.dataset, self.source = world, dataset, source
        self.extent, self.settings, self._quiet = extent, settings, quiet

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.settings.seed

    @property
    def fps(self) -> float:
        """Ticks a second."""
        return self.world.config.fps

    def ticks(self, seconds: float) -> int:
        """Seconds as a whole number of ticks, one at least."""
        return max(1, round(seconds * self.fps))

    @cached_property
    def reader(self) -> Reader | None:
        """Colours where they tell the objects apart, else the probe, or nobody for a source without a state."""
        if tells_apart(self.source.objects):
            return ColourReader(self.source.objects, self.source.height, self.source.width)
        return self.probe if self.probe.objects else None

    @property
    def tiles(self) -> TileReader | None:
        """What reads the source's tiles; ``None`` where it has none."""
        return self.reader.tiles if isinstance(self.reader, ColourReader) else None

    @cached_property
    def probe(self) -> StateProbe:
        """The learned reader, whose features measure Frechet distance."""
        return StateProbe(self.dataset, self.extent.lesson)

    @cached_property
    def window(self) -> int:
        """Real frames that a dream starts from."""
        return self.world.config.model.window

    @cached_property
    def roll_outs(self) -> RollOuts:
        """The dream of held-out play under the recorded actions."""
        ticks = self.ticks(self.extent.seconds)
        moments = self.moments(self.extent.roll_outs, ticks)
        actions = np.stack([moment.actions for moment in moments], 1)
        with self.progress("roll-outs", actions.size) as advance:
            dreamed = dream(self.world, [m.start for m in moments], actions, self.settings, advance)
        before = np.stack([moment.start.frames[-1] for moment in moments])
        real = np.stack([moment.frames for moment in moments], 1)
        return RollOuts(moments, actions, before, real, dreamed)

    @cached_property
    def branches(self) -> tuple[list[Moment], NDArray[np.uint8]]:
        """Moments M, and the real game for a second from each under every action: uint8 [T, M, A, H, W, 3]."""
        ticks = self.ticks(1.0)
        moments = self.moments(self.extent.control_moments, ticks)
        count = len(self.world.actions)
        actions = np.tile(np.arange(count), (ticks, len(moments)))
        with self.game() as game, self.progress("real game, every action", actions.size) as advance:
            states = [state for state in clones(game, moments) for _ in range(count)]
            frames = branch(game, states, actions, advance)
        return moments, frames.reshape(ticks, len(moments), count, *frames.shape[2:])

    @cached_property
    def effects(self) -> Effects:
        """Which actions look alike."""
        return effects(self.branches[1], self.world.actions.names)

    def moments(self, count: int, ticks: int) -> list[Moment]:
        """Spread moments of held-out play; the same for the same numbers."""
        return spread_moments(self.dataset, count, self.window, ticks, self.seed)

    @contextlib.contextmanager
    def game(self) -> Iterator[Source]:
        """The real game, closed afterwards.

        Raises:
            MissingExtra: its package is not installed.
        """
        source = make_source(self.source)
        try:
            yield source
        finally:
            source.close()

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], object]]:
        """A progress bar on stderr with the time left; gives the function that advances it."""
        with tqdm(
            total=total, desc=what, unit="frame", unit_scale=True, file=sys.stderr, leave=False,
            disable=self._quiet or None,
        ) as bar:  # fmt: skip
            yield bar.update


def source_of(dataset: Dataset, objects: dict[str, Any] | None = None) -> SourceConfig:
    """The real game as it was when it was recorded.

    Args:
        dataset: The recording.
        objects: What its objects look like, if the recording does not say.

    Raises:
        DataError: the recording's settings are not those of a source.
    """
    try:
        config = from_dict(SourceConfig, dataset.config["source"])
    except Exception as error:
        raise DataError(f"{dataset.folder} does not say how it was recorded ({error}): collect again") from error
    return config if config.objects or not objects else dataclasses.replace(config, objects=objects)


def spread(values: NDArray[np.floating[Any]], quantiles: Sequence[float] = (0.5, 0.9)) -> list[float]:
    """Quantiles of the values that are numbers, NaN if none is; infinite ones (missing objects) are the largest."""
    known = np.sort(values[~np.isnan(values)].ravel())
    if not len(known):
        return [float("nan")] * len(quantiles)
    return [float(known[min(len(known) - 1, int(q * len(known)))]) for q in quantiles]
