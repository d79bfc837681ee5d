"""Recorded episodes on disk: one ``.npz`` an episode and an ``index.json`` beside them.

Time convention: ``frames[t]``, then ``actions[t]`` is taken, then ``rewards[t]``, ``terminated[t]`` and
``frames[t + 1]`` follow. A file with T actions therefore holds T + 1 frames and T + 1 rows of state.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from worldsim.actions import ActionTable
from worldsim.errors import ActionError, DataError

FORMAT = "worldsim-episodes"
VERSION = 1
INDEX = "index.json"
STATE = "state_"
MEND = "delete it and run the same `worldsim collect` again to make it anew"
_HEADERS = threading.Lock()


@dataclass(frozen=True)
class EpisodeInfo:
    """What the index says of one episode.

    Attributes:
        index: number of the episode; its seed follows from it.
        file: file name inside the data set's folder.
        steps: actions taken (the file holds one more frame).
        seed: of the game and of the behaviour.
        held_out: never to be trained on.
        total: sum of rewards.
        gained, lost: ticks with a positive, with a negative reward.
        policy: who played.
        sha256: of the file.
    """

    index: int
    file: str
    steps: int
    seed: int
    held_out: bool
    total: float
    gained: int
    lost: int
    policy: str
    sha256: str


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T actions.

    Attributes:
        frames: uint8 [T+1, H, W, 3].
        actions: uint8 [T].
        rewards: float32 [T].
        terminated: bool [T]; the game itself was over; in a source with lives where one was lost, see
            :attr:`~worldsim.envs.source_config.SourceConfig.lost_with`.
        truncated: bool [T]; true at most at the end: the recording stopped, not the game.
        behaviour: uint8 [T], the kind of play that chose the action: an index into ``Dataset.behaviours``.
        state: the source's own state by name, float32 [T+1] each; for evaluation only.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    behaviour: NDArray[np.uint8]
    state: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Dataset:
    """A folder of recorded episodes.

    Attributes:
        folder: where it is.
        config: the settings it was collected with; ``config["source"]`` is the source's config.
        actions: the action table.
        behaviours: names of the kinds of play.
        episodes: all usable episodes, in order.
    """

    folder: Path
    config: dict[str, Any]
    actions: ActionTable
    behaviours: tuple[str, ...]
    episodes: tuple[EpisodeInfo, ...]

    @classmethod
    def open(cls, folder: str | Path, *, skip_bad: bool = False) -> Dataset:
        """Read the index; frames stay on disk.

        Args:
            folder: holds ``index.json``.
            skip_bad: read every file once and leave out, with a warning, episodes whose file is missing or
                not what was recorded; without it, those are found when they are loaded.

        Raises:
            DataError: no index, or one that is truncated, foreign or of another version.
        """
        folder = Path(folder)
        data = read_index(folder)
        dataset = cls(folder, data["config"], data["actions"], data["behaviours"], data["episodes"])
        if not skip_bad:
            return dataset
        good = []
        for info in dataset.episodes:
            if is_whole(folder, info):
                good.append(info)
            else:
                what = f"skipping {folder / info.file}: missing or not what was recorded"
                warnings.warn(f"{what}; {MEND}", stacklevel=2)
        return cls(folder, dataset.config, dataset.actions, dataset.behaviours, tuple(good))

    @property
    def train(self) -> tuple[EpisodeInfo, ...]:
        """Episodes to learn from."""
        return tuple(info for info in self.episodes if not info.held_out)

    @property
    def held_out(self) -> tuple[EpisodeInfo, ...]:
        """Episodes to judge with, never trained on."""
        return tuple(info for info in self.episodes if info.held_out)

    def load(self, info: EpisodeInfo) -> Episode:
        """Read one episode.

        Raises:
            DataError: the file is missing, truncated or foreign; the message names it.
        """
        path = self.folder / info.file
        episode = read_episode(path)
        if len(episode) != info.steps:
            raise DataError(f"{path} holds {len(episode)} steps, but the index says {info.steps}: {MEND}")
        highest = int(episode.actions.max(initial=0))
        if highest >= len(self.actions):
            raise DataError(f"{path} holds action {highest} of {len(self.actions)}: {MEND}")
        return episode


def read_ends(path: Path) -> NDArray[np.bool_]:
    """An episode's ``terminated`` alone, without its frames.

    Raises:
        DataError: the file is missing, truncated or foreign.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            ends: NDArray[np.bool_] = _read_array(archive, "terminated.npy").astype(bool)
            return ends
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: run the same `worldsim collect` again") from error


def write_episode(path: Path, episode: Episode) -> str:
    """Write an episode in one piece; the same episode gives the same bytes. Returns the file's SHA-256.

    Raises:
        DataError: the disk is full or the folder cannot be written; no partial file stays.
    """
    arrays: dict[str, Any] = {
        "frames": episode.frames,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "behaviour": episode.behaviour,
    }
    arrays |= {STATE + name: column for name, column in episode.state.items()}
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    with _atomic(path) as file:
        file.write(memory.getbuffer())
    return hashlib.sha256(memory.getbuffer()).hexdigest()


def read_episode(path: Path) -> Episode:
    """Read an episode's file. Never unpickles.

    Raises:
        DataError: the file is missing, truncated or foreign.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in archive.namelist()}
        columns = [name for name in arrays if name.startswith(STATE)]
        state = {name.removeprefix(STATE): arrays.pop(name) for name in columns}
        episode = Episode(**arrays, state=state)
        _check(episode)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: run the same `worldsim collect` again") from error
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path} is truncated or not a recorded episode ({reason}): {MEND}") from error
    return episode


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of an npz file, as ``np.load`` reads it, but in any thread: headers are parsed by ``ast``, which must
    not run in two threads at once in Python 3.11.
    """
    with archive.open(name) as file:
        with _HEADERS:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{name} is of another format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or fortran:
            raise ValueError(f"{name} is of {dtype}")
        return np.frombuffer(bytearray(file.read()), dtype).reshape(shape)  # a bytearray can be written to


def _check(episode: Episode) -> None:
    steps = len(episode.actions)
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "frames": (np.uint8, (steps + 1, *episode.frames.shape[1:3], 3)),
        "actions": (np.uint8, (steps,)),
        "rewards": (np.float32, (steps,)),
        "terminated": (np.bool_, (steps,)),
        "truncated": (np.bool_, (steps,)),
        "behaviour": (np.uint8, (steps,)),
    }
    for name, (dtype, shape) in wanted.items():
        array = getattr(episode, name)
        if array.dtype != dtype or array.shape != shape:
            is_not = f"{array.dtype} {list(array.shape)}, not {np.dtype(dtype)} {list(shape)}"
            raise ValueError(f"{name} is {is_not}")
    for name, column in episode.state.items():
        if column.dtype != np.float32 or column.shape != (steps + 1,):
            is_not = f"{column.dtype} {list(column.shape)}, not float32 [{steps + 1}]"
            raise ValueError(f"{STATE}{name} is {is_not}")


def is_whole(folder: Path, info: EpisodeInfo) -> bool:
    """Whether an episode's file is there and is, byte for byte, the one that was recorded."""
    try:
        return hashlib.sha256((folder / info.file).read_bytes()).hexdigest() == info.sha256
    except OSError:
        return False


def write_index(
    folder: Path,
    config: dict[str, Any],
    actions: ActionTable,
    behaviours: tuple[str, ...],
    episodes: list[EpisodeInfo],
) -> None:
    """Replace the index in one piece.

    Raises:
        DataError: the disk is full or the folder cannot be written; the old index stays.
    """
    data = {
        "format": FORMAT,
        "version": VERSION,
        "config": config,
        "actions": actions.to_json(),
        "behaviours": list(behaviours),
        "episodes": [asdict(info) for info in sorted(episodes, key=lambda info: info.index)],
    }
    with _atomic(folder / INDEX) as file:
        file.write(json.dumps(data, indent=1).encode())


def read_index(folder: Path) -> dict[str, Any]:
    """The index with its parts parsed: ``config``, ``actions``, ``behaviours``, ``episodes``.

    Raises:
        DataError: no index, or one that is truncated, foreign or of another version.
    """
    path = folder / INDEX
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        fix = f"make some with `worldsim collect folder={folder}`"
        raise DataError(f"no recorded episodes in {folder}: {fix}") from error
    except (OSError, ValueError) as error:
        fix = "delete the folder and collect again"
        raise DataError(f"{path} is truncated or not an index: {fix}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{path} is not an index of recorded episodes: choose another folder")
    if data.get("version") != VERSION:
        version = data.get("version")
        raise DataError(f"{path} has version {version}, this worldsim reads {VERSION}: collect again")
    try:
        config = dict(data["config"])
        actions = ActionTable.from_json(data["actions"])
        behaviours = tuple(str(name) for name in data["behaviours"])
        episodes = tuple(EpisodeInfo(**row) for row in data["episodes"])
        if any(Path(info.file).name != info.file for info in episodes):
            raise ValueError("a file outside the folder")
    except (KeyError, TypeError, ValueError, ActionError) as error:
        raise DataError(f"{path} is damaged ({error}): delete the folder and collect again") from error
    return {"config": config, "actions": actions, "behaviours": behaviours, "episodes": episodes}


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space and run it again" if full else "check the folder"
        reason = f"cannot write {path} ({error.strerror or error})"
        raise DataError(f"{reason}: {fix}; what was there is unharmed") from error
