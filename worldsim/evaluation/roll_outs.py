"""The same actions from the same moments, in the dream and in the real game."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.engine.generators import FrameGenerator, open_world
from worldsim.engine.session import Session
from worldsim.envs.sources import Source, SourceConfig, SourceState, make_source
from worldsim.model.designs import SEPARABLE
from worldsim.start import Start
from worldsim.world import World

Advance = Callable[[int], object]  # told how many frames were made, for a progress bar


@dataclass(frozen=True)
class DreamSettings:
    """How worlds are run; see :class:`~worldsim.engine.session.Session`.

    Attributes:
        batch: Rows of one session at most.
        workers: Sessions that run at the same time, each on one core. Blocks of rows are as independent as can be:
            where other work runs beside, cores that wait for each other inside every layer are many times slower.
    """

    steps: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    batch: int = 32
    workers: int = 1
    backend: str = "eager"

    def open(self, world: World, rows: int) -> FrameGenerator:
        """A world of any design, ``rows`` of it."""
        return open_world(world, rows, steps=self.steps, device=self.device, dtype=self.dtype, backend=self.backend)

    def session(self, world: World, rows: int, seed: int) -> Session:
        """A session of ``rows`` whose first row draws from ``self.seed + seed``."""
        return Session(
            world,
            rows,
            steps=self.steps,
            seed=self.seed + seed,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
        )


def dream(
    world: World,
    starts: Sequence[Start],
    actions: NDArray[np.int64],
    settings: DreamSettings,
    advance: Advance | None = None,
) -> NDArray[np.uint8]:
    """What the world shows when ``actions`` follow ``starts``.

    Of a design that runs behind the game, the frames that the actions lead to, however late they come.

    Args:
        world: The world.
        starts: One a row.
        actions: int64 [T, N].
        settings: How to run it.
        advance: Called with the number of new frames.

    Returns:
        uint8 [T, N, H, W, 3].
    """
    ticks, rows = actions.shape
    frames = np.empty((ticks, rows, *starts[0].frames.shape[1:]), np.uint8)

    def run(block: slice) -> None:
        generator = settings.open(world, block.stop - block.start)
        generator.prime(list(starts[block]), settings.seed + block.start)
        late = generator.own_delay - 1
        for tick in range(ticks + late):
            shown = generator.render(actions[min(tick, ticks - 1), block])
            generator.commit()
            if tick >= late:
                frames[tick - late, block] = shown
                if advance:
                    advance(block.stop - block.start)
        generator.close()

    blocks = _blocks(rows, settings.batch)
    settings.open(world, 1).close()  # the weights are put in place once, before blocks share them
    with ThreadPoolExecutor(settings.workers) as pool:
        list(pool.map(run, blocks))
    return frames


def _blocks(rows: int, most: int) -> list[slice]:
    """Rows in as few blocks as there must be, of about one size; the same whatever runs them."""
    edges = np.linspace(0, rows, -(-rows // most) + 1).astype(int).tolist()
    return [slice(first, last) for first, last in zip(edges[:-1], edges[1:], strict=True)]


def branch(
    source: Source, states: Sequence[SourceState], actions: NDArray[np.int64], advance: Advance | None = None
) -> NDArray[np.uint8]:
    """What the real game shows when ``actions`` [T, N] are taken from ``states``; uint8 [T, N, H, W, 3].

    A game that is over stands still.
    """
    ticks, rows = actions.shape
    columns = []
    for row in range(rows):
        frame = source.restore_state(states[row])
        over, column = False, []
        for tick in range(ticks):
            if not over:
                frame, _, terminated, truncated, _ = source.step(int(actions[tick, row]))
                over = terminated or truncated
            column.append(frame)
        columns.append(np.stack(column))
        if advance:
            advance(ticks)
    return np.stack(columns, 1)


class DreamRows:
    """A dream that is never reset, tick by tick."""

    def __init__(self, world: World, starts: Sequence[Start], settings: DreamSettings) -> None:
        self._blocks = _blocks(len(starts), max(1, settings.batch // 2))
        self._games = [_Game(world, starts[block], 50_000 + block.start, settings) for block in self._blocks]
        self.frames = np.stack([start.frames[-1] for start in starts])
        self._pool = ThreadPoolExecutor(settings.workers)

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Take an action in every row; rewards float32 [B]. ``frames`` holds the new frames."""
        done = list(self._pool.map(lambda i: self._games[i].step(actions[self._blocks[i]]), range(len(self._blocks))))
        self.frames = np.concatenate([frames for frames, _ in done])
        return np.concatenate([rewards for _, rewards in done])

    def close(self) -> None:
        """Let go of the sessions."""
        self._pool.shutdown()
        for game in self._games:
            game.close()


class _Game:
    """Some rows of a dream, each from its start: a session, or a design that gives no rewards."""

    def __init__(self, world: World, starts: Sequence[Start], seed: int, settings: DreamSettings) -> None:
        self._session: Session | None = None
        if world.config.design == SEPARABLE:
            self._session = settings.session(world, len(starts), seed)
            self._session.reset(start=list(starts))
        else:
            self._generator = settings.open(world, len(starts))
            self._generator.prime(list(starts), settings.seed + seed)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames [B, H, W, 3] and rewards [B]."""
        if self._session:
            frames, outcome = self._session.step(actions)
            return frames, outcome.reward
        frames = self._generator.render(actions)
        self._generator.commit()
        return frames, np.zeros(len(actions), np.float32)

    def close(self) -> None:
        """Let go of it."""
        (self._session or self._generator).close()


class RealRows:
    """Real games side by side, tick by tick; one that is over goes on from another of the moments.

    A dream has no end of its own here, so the real game must not have one either: no opening, no empty field.
    """

    def __init__(self, config: SourceConfig, states: Sequence[SourceState], seed: int) -> None:
        self._states = list(states)
        self._rng = np.random.default_rng((seed, 7002))
        self._games = [make_source(config) for _ in states]
        for game, state in zip(self._games, states, strict=True):
            game.reset(seed=0)
            game.restore_state(state)
        self.frames = np.stack([state.frame for state in states])

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Take an action in every row; rewards float32 [B]. ``frames`` holds the new frames."""
        rewards = np.zeros(len(actions), np.float32)
        frames = []
        for row, game in enumerate(self._games):
            frame, reward, terminated, truncated, _ = game.step(int(actions[row]))
            rewards[row] = np.sign(reward)
            frames.append(frame)
            if terminated or truncated:
                game.restore_state(self._states[int(self._rng.integers(len(self._states)))])
        self.frames = np.stack(frames)
        return rewards

    def close(self) -> None:
        """Close the games."""
        for game in self._games:
            game.close()
