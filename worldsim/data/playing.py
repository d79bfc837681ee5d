"""Episodes played and written by several processes, each made of its settings, seed and number alone."""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.agents.mixture import Mixture, MixtureConfig
from worldsim.data.episodes import Episode, EpisodeInfo, write_episode
from worldsim.envs.sources import Source, SourceConfig, make_source
from worldsim.errors import SourceError


@dataclass(frozen=True)
class Job:
    """What every process must know."""

    folder: Path
    source: SourceConfig
    behaviour: MixtureConfig
    seed: int
    held_out: float
    limit: int | None


def held_out(index: int, share: float) -> bool:
    """Whether an episode is held out: every ``round(1 / share)``-th, from the middle of the first lot on."""
    every = round(1 / share) if share else 0
    return bool(every) and index % every == every // 2


def play_episode(source: Source, behaviour: MixtureConfig, seed: int, limit: int | None) -> Episode:
    """Play and record one episode; the same arguments give the same episode.

    Args:
        source: the game.
        behaviour: how play is mixed.
        seed: of the game and of the behaviour.
        limit: steps after which the recording is cut, or None.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    player = Mixture(behaviour, source.actions, source.config.fps, source.config.behaviour, rng, source.config.height)
    frame, info = source.reset(seed=seed)
    frames, states = [frame], [info["state"]]
    hangs_on = source.config.lost_with
    if hangs_on is not None and hangs_on not in states[0]:
        numbers = ", ".join(states[0])
        raise SourceError(f"source {source.config.name}: lost_with is one of its state's {numbers}, not {hangs_on!r}")
    actions: list[int] = []
    kinds: list[int] = []
    rewards: list[float] = []
    ends: list[tuple[bool, bool]] = []
    terminated = truncated = False
    while not (terminated or truncated):
        action, kind = player.act(info["state"])
        frame, reward, terminated, truncated, info = source.step(action)
        truncated = truncated or (not terminated and len(actions) + 1 == limit)
        frames.append(frame)
        states.append(info["state"])
        actions.append(action)
        kinds.append(kind)
        rewards.append(reward)
        ends.append((terminated or info["life_lost"], truncated))
    over = np.array(ends, bool)
    state = {name: np.array([state[name] for state in states], np.float32) for name in states[0]}
    if hangs_on is not None:
        over[:, 0] = lost_sight(over[:, 0], ~np.isnan(state[hangs_on]))
    return Episode(
        frames=np.stack(frames),
        actions=np.array(actions, np.uint8),
        rewards=np.array(rewards, np.float32),
        terminated=over[:, 0].copy(),
        truncated=over[:, 1].copy(),
        behaviour=np.array(kinds, np.uint8),
        state=state,
    )


OUT_OF_SIGHT = 3  # frames: a ball that meets a paddle of its colour is out of sight for one or two, and comes back


def lost_sight(lost: NDArray[np.bool_], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lost lives, moved from where the game took them to where what they hang on was lost sight of.

    Args:
        lost: bool [T], at the actions after which the game took one.
        seen: bool [T+1], whether what it hangs on is in each frame.

    Returns:
        bool [T], as many: each at the action that led to the ``OUT_OF_SIGHT``-th frame without it, or at the game's if
        that comes first, of the last time that it left the picture before the game took the life and after the game
        took the one before; where it did not, left alone.
    """
    moved = np.zeros_like(lost)
    leaves = np.flatnonzero(seen[:-1] & ~seen[1:])
    first = 0
    for taken in np.flatnonzero(lost):
        since = leaves[(leaves >= first) & (leaves <= taken)]
        moved[min(since[-1] + OUT_OF_SIGHT - 1, taken) if len(since) else taken] = True
        first = taken + 1
    return moved


@contextlib.contextmanager
def playing(job: Job, processes: int) -> Iterator[Callable[[int], Future[EpisodeInfo]]]:
    """A function that has an episode played and written by its number, in other processes if there are.

    Raises (from the future):
        DataError: the disk is full.
        BrokenProcessPool: a process died.
    """
    if processes == 1:
        worker = _Worker(job)

        def play(index: int) -> Future[EpisodeInfo]:
            future: Future[EpisodeInfo] = Future()
            future.set_result(worker.play(index))
            return future

        with contextlib.closing(worker.source):
            yield play
        return
    # Not forked: a copy of a process that holds threads and an emulator is not safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (job,)) as pool:
        yield lambda index: pool.submit(_play, index)


class _Worker:
    def __init__(self, job: Job) -> None:
        self._job = job
        self.source = make_source(job.source)

    def play(self, index: int) -> EpisodeInfo:
        job = self._job
        seed = int(np.random.SeedSequence((job.seed, index)).generate_state(1)[0] >> 1)  # 31 bits, for ALE
        episode = play_episode(self.source, job.behaviour, seed, job.limit)
        file = f"episode_{index:06d}.npz"
        digest = write_episode(job.folder / file, episode)
        rewards = episode.rewards
        return EpisodeInfo(
            index=index,
            file=file,
            steps=len(episode),
            seed=seed,
            held_out=held_out(index, job.held_out),
            total=float(rewards.sum()),
            gained=int((rewards > 0).sum()),
            lost=int((rewards < 0).sum()),
            policy=job.source.behaviour or "random",
            sha256=digest,
        )


_worker: _Worker | None = None  # one to a process


def _start(job: Job) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_follow_parent, daemon=True).start()
    cv2.setNumThreads(0)  # the processes are the parallelism
    _worker = _Worker(job)
    atexit.register(_end)


def _end() -> None:
    """Close the game before the interpreter ends: ALE's bindings print a page about every object that outlives them."""
    global _worker
    if _worker is not None:
        _worker.source.close()
    _worker = None
    gc.collect()


def _follow_parent() -> None:
    """End with the parent, however it ends: a worker waiting for work would wait for ever after a ``kill -9``."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play(index: int) -> EpisodeInfo:
    assert _worker is not None
    return _worker.play(index)
