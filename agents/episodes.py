"""Episodes of any player or policy, side by side, in the dream and in the real game."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.agents.players import Eyes, act_all, player_of, source_of
from worldsim.agents.policy import Policy, Stack, Watcher
from worldsim.agents.recorded import Starts
from worldsim.agents.scripted import Player
from worldsim.envs.source_state import State
from worldsim.envs.sources import Source, SourceConfig, make_source
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import WorldsimError
from worldsim.film.film import Film
from worldsim.start import Start
from worldsim.world import World

Choose = Callable[[NDArray[np.uint8], list[State]], NDArray[np.int64]]
Watch = Callable[[NDArray[np.uint8], NDArray[np.int64] | None], None]
Shoot = Callable[[NDArray[np.uint8]], None]

FILM_SIDE = 480  # pixels, at least: a film of 80 is hard to look at


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig:
    """How episodes are played, as ``configs/agent.yaml`` and ``transfer.yaml`` explain it.

    Attributes:
        world: The dream, by name or folder.
        source: Its real game; None: the one that it was learned from.
        episodes: Side by side.
        max_steps: Decisions after which one is cut off.
        greedy: The likeliest action instead of a drawn one.
        seed: Episode i has ``seed + i``.
        device, dtype: Of the networks.
        noops: A real game begins with 1 to so many ticks of no action, as is usual on Atari, or one policy would play
            the same game every time; 0: with none.
        dreams: Episodes of the dream; None: as many as of the real game.
        dream_seconds: Of game after which one of the dream is cut off, whoever decides how often; None: ``max_steps``.
        starts: ``"episode"``: an episode of the dream begins as a game does; ``"recorded"``: anywhere in recorded play.
        data: Which; see :func:`~worldsim.agents.recorded.play_of`.
    """

    world: str | None = None
    source: str | None = None
    episodes: int = 30
    max_steps: int | None = None
    greedy: bool = False
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    noops: int = 30
    dreams: int | None = None
    dream_seconds: float | None = None
    starts: str = "episode"
    data: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.noops < 0:
            raise WorldsimError(f"episodes must be at least 1 and noops 0, not {self.episodes} and {self.noops}")
        if self.starts not in ("episode", "recorded"):
            raise WorldsimError(f"starts is episode or recorded, not {self.starts!r}")
        if self.dreams is not None and self.dreams < 1 or self.dream_seconds is not None and self.dream_seconds <= 0:
            raise WorldsimError(
                f"dreams must be at least 1 and dream_seconds positive, not {self.dreams} and {self.dream_seconds}"
            )


@dataclass(frozen=True)
class Play:
    """Episodes of a world and of its real game.

    Attributes:
        world: The dream.
        how: See :class:`EpisodesConfig`.
    """

    world: World
    how: EpisodesConfig

    @cached_property
    def source(self) -> SourceConfig:
        """The real game, in the size that the world shows it.

        Raises:
            WorldsimError: it is not known.
        """
        return source_of(self.world, self.how.source)

    def players(self, name: str, count: int) -> list[Player]:
        """So many players of that name; see :func:`~worldsim.agents.players.player_of`."""
        make = player_of(name, self.world.actions, self.source)
        return [make(np.random.default_rng((self.how.seed, i))) for i in range(count)]

    def dream_decisions(self, repeat: int) -> int | None:
        """Decisions after which an episode of the dream is cut off, each of so many ticks."""
        if self.how.dream_seconds is None:
            return self.how.max_steps
        return max(1, round(self.how.dream_seconds * self.world.config.fps / repeat))

    def generator(self) -> torch.Generator | None:
        """What a policy draws its actions with."""
        return None if self.how.greedy else torch.Generator().manual_seed(self.how.seed)


def in_real(play: Play, who: Policy | str, film: Path | None = None) -> NDArray[np.float64]:
    """Returns [N] in the real game of a policy, or of the player of that name.

    Args:
        play: How.
        who: A policy, or a name of :data:`~worldsim.agents.players.NAMED`.
        film: Where to film the first episode.
    """
    with ExitStack() as stack:
        sources = [make_source(play.source) for _ in range(play.how.episodes)]
        for one in sources:
            stack.callback(one.close)
        shoot = _filming(film, play.source.fps, stack)
        if isinstance(who, str):
            players = play.players(who, play.how.episodes)
            return play_real(sources, lambda _, states: act_all(players, states), play, shoot=shoot)
        watcher = Watcher(play.world, who.config, play.how.episodes, play.how.device, play.how.dtype)
        generator = play.generator()

        def decide(frames: NDArray[np.uint8], _: list[State]) -> NDArray[np.int64]:
            return who.act(watcher.observe(frames).cpu(), generator).numpy()

        return play_real(sources, decide, play, who.config.action_repeat, watcher.watch, shoot)


def in_dream(play: Play, who: Policy | str, film: Path | None = None) -> NDArray[np.float64]:
    """Returns [N] in the dream; a scripted player sees its pictures. See :func:`in_real`."""
    named, rows = isinstance(who, str), play.how.dreams or play.how.episodes
    repeat = 1 if isinstance(who, str) else who.config.action_repeat
    begun, seen = None, None
    if play.how.starts == "recorded":
        begun, seen = Starts(play.world, play.how.data, repeat).draw(np.random.default_rng(play.how.seed), rows)
    choose = _player_choice(play, who, rows) if isinstance(who, str) else _policy_choice(who, play.generator(), seen)
    with ExitStack() as stack:
        env = WorldVectorEnv(
            rows,
            play.world,
            action_repeat=repeat,
            obs_type="rgb" if isinstance(who, str) else who.config.obs_type,
            max_episode_steps=play.dream_decisions(repeat),
            tensors=not named,
            device=play.how.device,
            dtype=play.how.dtype,
        )
        stack.callback(env.close)
        return play_dream(env, choose, play.how.seed, _filming(film, play.world.config.fps / repeat, stack), begun)


def play_real(
    sources: list[Source],
    choose: Choose,
    play: Play,
    repeat: int = 1,
    watch: Watch = lambda *_: None,
    shoot: Shoot = lambda _: None,
) -> NDArray[np.float64]:
    """Returns [N] of one episode of each of the real games, side by side.

    Args:
        sources: The games.
        choose: Frames [N, H, W, 3] and states to actions [N], once every ``repeat`` ticks.
        play: Seed, no-ops, and how many decisions at most.
        repeat: Ticks that an action is held.
        watch: Told every tick's frames and actions.
        shoot: Given the first game's frames.
    """
    rows = len(sources)
    starts = [_begun(source, play.how.seed + i, play.how.noops) for i, source in enumerate(sources)]
    frames, states = np.stack([frame for frame, _ in starts]), [info["state"] for _, info in starts]
    watch(frames, None)
    shoot(frames[0])
    returns, over, decisions = np.zeros(rows), np.zeros(rows, bool), 0
    while not over.all() and (play.how.max_steps is None or decisions < play.how.max_steps):
        actions = choose(frames, states)
        for _ in range(repeat):
            filmed = not over[0]
            for row in np.flatnonzero(~over):
                frames[row], reward, terminated, truncated, info = sources[row].step(int(actions[row]))
                returns[row] += reward
                states[row] = info["state"]
                over[row] = terminated or truncated
            watch(frames, actions)
            if filmed:
                shoot(frames[0])
        decisions += 1
    return returns


def _begun(source: Source, seed: int, noops: int) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """A game's frame and what goes with it after some ticks of no action."""
    frame, info = source.reset(seed=seed)
    for _ in range(int(np.random.default_rng(seed).integers(1, noops + 1)) if noops else 0):
        frame, _, _, _, info = source.step(source.actions.noop)
    return frame, info


def play_dream(
    env: WorldVectorEnv,
    choose: Callable[[Any], NDArray[np.int64]],
    seed: int,
    shoot: Shoot = lambda _: None,
    begun: list[Start] | None = None,
) -> NDArray[np.float64]:
    """Returns [N] of one episode of each row.

    Args:
        env: Any number of rows.
        choose: Observations to actions [N].
        seed: Row i is seeded with ``seed + i``.
        shoot: Given the first row's frames.
        begun: What the rows begin with; None: the world's beginnings.
    """
    observations, _ = env.reset(seed=seed, options={"start": begun} if begun else None)
    shoot(env.session.frames[0])
    returns, over = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not over.all():
        observations, rewards, terminations, truncations, _ = env.step(choose(observations))
        if not over[0]:
            shoot(env.session.frames[0])
        returns[~over] += np.asarray(rewards)[~over]
        over |= np.asarray(terminations | truncations)
    return returns


def _filming(path: Path | None, fps: float, stack: ExitStack) -> Shoot:
    """What takes the frames of a film, which the stack finishes."""
    if path is None:
        return lambda _: None
    film = Film(path, fps)
    stack.callback(film.close)

    def shoot(frame: NDArray[np.uint8]) -> None:
        scale = -(-FILM_SIDE // max(frame.shape[:2]))
        film.add(frame.repeat(scale, 0).repeat(scale, 1))

    return shoot


def _player_choice(play: Play, name: str, rows: int) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    players = play.players(name, rows)
    if not name.startswith("scripted"):
        return lambda frames: act_all(players, [{}] * len(frames))
    eyes = Eyes(play.source)
    return lambda frames: act_all(players, eyes.states(frames))


def _policy_choice(
    policy: Policy, generator: torch.Generator | None, before: torch.Tensor | None
) -> Callable[[Any], NDArray[np.int64]]:
    """Decisions of a policy; ``before`` are grey frames [N, 4, H, W] that it has seen when the first is asked for."""
    stack: list[Stack] = []

    def decide(observations: torch.Tensor) -> NDArray[np.int64]:
        seen = observations.cpu()
        if policy.config.obs_type == "gray":
            if stack:
                seen = stack[0].push(seen)
            else:
                stack.append(Stack(seen))
                seen = stack[0].frames if before is None else stack[0].begin(range(len(seen)), before)
        return policy.act(seen, generator).numpy()

    return decide
