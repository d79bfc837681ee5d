"""``worldsim collect``: play a source with mixed behaviour in several processes and record it.

An episode depends on the settings, the seed and its number alone. So a recording that was stopped and
continued is the same, byte for byte, as one that was not, whatever the number of processes.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worldsim.actions import ActionTable
from worldsim.agents.mixture import BEHAVIOURS, MixtureConfig
from worldsim.data.episodes import INDEX, Dataset, EpisodeInfo, is_whole, read_index, write_index
from worldsim.data.playing import Job, playing
from worldsim.envs.sources import SourceConfig, load_source, make_source
from worldsim.errors import DataError, MissingExtra
from worldsim.locking import sole_writer
from worldsim.settings import command, from_dict, home

INDEX_EVERY = 2.0  # seconds: what a kill can lose, beside the episodes being played


@dataclass(frozen=True)
class CollectConfig:
    """What to record.

    Attributes:
        source: a name from ``configs/source`` or a Gymnasium id.
        steps: at least so many; the recording is the shortest run of whole episodes that reaches it.
        processes: that play at the same time; they do not change what is recorded.
        seed: of everything.
        size: height and width of the frames; None for the source's own.
        held_out: share of episodes that are marked as never to be trained on.
        folder: where to; None for ``home()/data/<source name>``.
        episode_steps: cut episodes after so many steps; None for the source's own limit.
        behaviour: how play is mixed.
    """

    source: str = "pong"
    steps: int = 200_000
    processes: int = 2
    seed: int = 0
    size: tuple[int, int] | None = None
    held_out: float = 0.06
    folder: str | None = None
    episode_steps: int | None = None
    behaviour: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        for key in ("steps", "processes"):
            if getattr(self, key) < 1:
                raise DataError(f"{key} must be at least 1, not {getattr(self, key)}")
        if self.seed < 0 or (self.episode_steps is not None and self.episode_steps < 1):
            given = f"{self.seed} and {self.episode_steps}"
            raise DataError(f"seed must be 0 or more and episode_steps null or 1 or more, not {given}")
        if not 0 <= self.held_out <= 0.5:
            raise DataError(f"held_out is a share from 0 to 0.5, not {self.held_out}")


def collect(config: CollectConfig, *, progress: bool = True) -> Dataset:
    """Record episodes until there are ``config.steps`` steps; what is already there is kept.

    Args:
        config: what to record. From one call to the next, only ``steps`` and ``processes`` may change.
        progress: show a bar with the time left on stderr.

    Returns:
        The data set, opened.

    Raises:
        DataError: the folder holds other data, or the disk is full; what was recorded stays.
        SourceError, MissingExtra: the source cannot be made.
    """
    wanted = load_source(config.source)
    source = make_source(wanted.at(*config.size) if config.size else wanted)
    source.close()
    folder = Path(config.folder).expanduser() if config.folder else home() / "data" / source.config.name
    settings = {
        "source": asdict(source.config),
        "behaviour": asdict(config.behaviour),
        "seed": config.seed,
        "held_out": config.held_out,
        "episode_steps": config.episode_steps,
    }
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they will when read back
    _refuse_strangers(folder)
    with sole_writer(folder, DataError):
        recorder = _Recorder(folder, settings, source.actions, config.steps)
        if recorder.complete() is None:  # else there is enough, and more where an earlier call wanted more
            _record(recorder, config, source.config, folder, progress)
    return Dataset.open(folder)


def _refuse_strangers(folder: Path) -> None:
    """Make the folder, unless it holds what is not a data set's."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: choose another folder")
    strangers = [p.name for p in folder.iterdir() if not _ours(p.name)] if folder.exists() else []
    if strangers and not (folder / INDEX).exists():
        raise DataError(f"{folder} holds other things ({strangers[0]}): choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder} ({error.strerror}): choose another folder") from error


def _resume(folder: Path, settings: dict[str, Any]) -> list[EpisodeInfo]:
    """Episodes that are already there and whole."""
    if not (folder / INDEX).exists():
        return []
    index = read_index(folder)
    different = _difference(index["config"], settings)
    if different:
        raise DataError(f"{folder} was collected with other settings ({different}): choose another folder")
    return [info for info in index["episodes"] if is_whole(folder, info)]


def _ours(name: str) -> bool:
    return name == INDEX or name.startswith((".episode_", f".{INDEX}", "episode_", ".lock"))


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first setting that differs, as ``key: old, now new``; empty when none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if found := _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key):
                return found
        return ""
    return "" if old == new else f"{path}: {str(old)[:40]}, now {str(new)[:40]}"


class _Recorder:
    """The data set as it grows: the only writer of the index."""

    def __init__(self, folder: Path, settings: dict[str, Any], actions: ActionTable, steps: int) -> None:
        self._folder, self._settings, self._actions, self._wanted = folder, settings, actions, steps
        self.done = {info.index: info for info in _resume(folder, settings)}
        self._written = -INDEX_EVERY
        # The first so many episodes are all there and hold so many steps.
        self._count, self._reached = 0, 0

    def complete(self) -> int | None:
        """How many episodes from the first on hold the wanted steps; None while they do not."""
        while self._reached < self._wanted:
            if self._count not in self.done:
                return None
            self._reached += self.done[self._count].steps
            self._count += 1
        return self._count

    def steps(self) -> int:
        return sum(info.steps for info in self.done.values())

    def add(self, info: EpisodeInfo) -> None:
        self.done[info.index] = info
        if time.monotonic() - self._written >= INDEX_EVERY:
            self.write()

    def write(self) -> None:
        """Write the index, without what parallel play made beyond the last episode that is wanted."""
        count = self.complete()
        episodes = [info for index, info in self.done.items() if count is None or index < count]
        write_index(self._folder, self._settings, self._actions, BEHAVIOURS, episodes)
        self._written = time.monotonic()

    def finish(self) -> None:
        """Remove what is not in the index: surplus episodes, and pieces that killed processes left."""
        listed = {info.file for info in read_index(self._folder)["episodes"]}
        for path in [*self._folder.glob("episode_*.npz"), *self._folder.glob(".*.tmp")]:
            if path.name not in listed:
                path.unlink(missing_ok=True)


def _record(recorder: _Recorder, config: CollectConfig, source: SourceConfig, folder: Path, progress: bool) -> None:
    job = Job(folder, source, config.behaviour, config.seed, config.held_out, config.episode_steps)
    bar = _bar(source.name, recorder.steps(), config.steps) if progress else None
    with bar or contextlib.nullcontext(), playing(job, config.processes) as submit:
        waiting: set[Future[EpisodeInfo]] = set()
        upcoming = 0
        try:
            while recorder.complete() is None:
                while len(waiting) < config.processes:
                    if upcoming not in recorder.done:
                        waiting.add(submit(upcoming))
                    upcoming += 1
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    info = future.result()
                    recorder.add(info)
                    if bar is not None:
                        bar.update(min(info.steps, config.steps - bar.n))
        except BrokenProcessPool as error:
            reason = "a playing process died (out of memory?)"
            raise DataError(f"{reason}: run the same command again to continue") from error
        finally:
            for future in waiting:
                future.cancel()
            recorder.write()
    recorder.finish()


def _bar(name: str, done: int, steps: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtra("tqdm", "train") from error
    often = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants few lines
    return tqdm(
        desc=f"collect {name}",
        initial=min(done, steps),
        total=steps,
        unit="step",
        unit_scale=True,
        mininterval=often,
    )


@command("collect")
def main(settings: dict[str, Any]) -> None:
    """Record play of a real game, to learn a world from. Run it again to continue where it stopped."""
    dataset = collect(from_dict(CollectConfig, settings))
    episodes = dataset.episodes
    steps, gained, lost = (sum(getattr(i, key) for i in episodes) for key in ("steps", "gained", "lost"))
    held = len(dataset.held_out)
    print(f"{dataset.folder}: {steps} steps in {len(episodes)} episodes ({held} held out), +{gained} -{lost}")
