"""A policy judged: episodes in the dream and in the real game, ``python -m worldsim.agents.evaluate policy=<file>``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.agents.policy import Policy, Stack, Watcher, load_policy
from worldsim.agents.random import RandomPlayer
from worldsim.agents.scripted import SCRIPTED, Player
from worldsim.checkpoint import write_atomically
from worldsim.envs.source_state import State
from worldsim.envs.sources import Source, SourceConfig, load_source, make_source
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import WorldsimError
from worldsim.settings import command, from_dict
from worldsim.world import World, load_world

RESAMPLES = 10_000


@dataclass(frozen=True)
class JudgeConfig:
    """What ``configs/agent.yaml`` explains."""

    policy: str
    world: str | None = None
    source: str | None = None
    episodes: int = 30
    where: tuple[str, ...] = ("dream", "real")
    max_steps: int | None = None
    greedy: bool = False
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise WorldsimError(f"episodes must be at least 1, not {self.episodes}")
        for place in self.where:
            if place not in ("dream", "real"):
                raise WorldsimError(f"where is dream, real or both, not {place!r}")


def summary(returns: NDArray[np.float64], seed: int = 0) -> dict[str, Any]:
    """Mean, median, and the 95 % bootstrap interval of the mean of some returns."""
    rng = np.random.default_rng(seed)
    means = rng.choice(returns, (RESAMPLES, len(returns))).mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "episodes": len(returns),
        "mean": float(returns.mean()),
        "median": float(np.median(returns)),
        "mean_interval_95": [float(low), float(high)],
        "returns": returns.tolist(),
    }


Choose = Callable[[NDArray[np.uint8], list[State]], NDArray[np.int64]]


def play_real(
    sources: list[Source], choose: Choose, watch: Callable[..., None], repeat: int, seed: int, most: int | None
) -> NDArray[np.float64]:
    """Returns [N] of one episode of each of the real games, side by side.

    Args:
        sources: The games.
        choose: Frames [N, H, W, 3] and states to actions [N], once every ``repeat`` ticks.
        watch: Told every tick's frames and actions.
        repeat: Ticks that an action is held.
        seed: Game i is seeded with ``seed + i``.
        most: Decisions after which a game is cut off.
    """
    rows = len(sources)
    starts = [source.reset(seed=seed + i) for i, source in enumerate(sources)]
    frames, states = np.stack([frame for frame, _ in starts]), [info["state"] for _, info in starts]
    watch(frames, None)
    returns, over, decisions = np.zeros(rows), np.zeros(rows, bool), 0
    while not over.all() and (most is None or decisions < most):
        actions = choose(frames, states)
        for _ in range(repeat):
            for row in np.flatnonzero(~over):
                frames[row], reward, terminated, truncated, info = sources[row].step(int(actions[row]))
                returns[row] += reward
                states[row] = info["state"]
                over[row] = terminated or truncated
            watch(frames, actions)
        decisions += 1
    return returns


def play_dream(env: WorldVectorEnv, choose: Callable[[Any], NDArray[np.int64]], seed: int) -> NDArray[np.float64]:
    """Returns [N] of one episode of each row."""
    observations, _ = env.reset(seed=seed)
    returns, over = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not over.all():
        observations, rewards, terminations, truncations, _ = env.step(choose(observations))
        returns[~over] += np.asarray(rewards)[~over]
        over |= np.asarray(terminations | truncations)
    return returns


def judge(config: JudgeConfig) -> dict[str, Any]:
    """Play the episodes; a report of plain values."""
    facts: dict[str, Any] = {}
    policy: Policy | None = None
    if config.policy not in ("random", "scripted"):
        policy, facts = load_policy(Path(config.policy))
    world = load_world(config.world or (policy.config.world if policy else "pong"))
    repeat = policy.config.action_repeat if policy else 1
    report: dict[str, Any] = {"policy": config.policy, "world": world.name, "fingerprint": world.fingerprint, **facts}
    for place in config.where:
        play = _in_dream if place == "dream" else _in_real
        report[place] = summary(play(config, world, policy, repeat), config.seed)
    return report


def _in_real(config: JudgeConfig, world: World, policy: Policy | None, repeat: int) -> NDArray[np.float64]:
    # In the size that the policy has seen.
    source = load_source(config.source or world.name).at(world.config.model.height, world.config.model.width)
    sources = [make_source(source) for _ in range(config.episodes)]
    try:
        if policy is None:
            return play_real(
                sources, _players(config, world, source), lambda *_: None, repeat, config.seed, config.max_steps
            )
        watcher = Watcher(world, policy.config, config.episodes, config.device, config.dtype)
        generator = None if config.greedy else torch.Generator().manual_seed(config.seed)

        def decide(frames: NDArray[np.uint8], _: list[State]) -> NDArray[np.int64]:
            assert policy is not None
            return policy.act(watcher.observe(frames).cpu(), generator).numpy()

        return play_real(sources, decide, watcher.watch, repeat, config.seed, config.max_steps)
    finally:
        for one in sources:
            one.close()


def _in_dream(config: JudgeConfig, world: World, policy: Policy | None, repeat: int) -> NDArray[np.float64]:
    if config.policy == "scripted":
        raise WorldsimError("a scripted player reads the real game's state, which a dream has not: give where=[real]")
    env = WorldVectorEnv(
        config.episodes,
        world,
        action_repeat=repeat,
        obs_type=policy.config.obs_type if policy else "rgb",
        max_episode_steps=config.max_steps,
        tensors=True,
        device=config.device,
        dtype=config.dtype,
    )
    if policy is None:
        generators = [np.random.default_rng((config.seed, i)) for i in range(env.num_envs)]
        players = [RandomPlayer(len(world.actions), rng) for rng in generators]
        return play_dream(env, lambda _: np.array([player.act({}) for player in players]), config.seed)
    generator = None if config.greedy else torch.Generator().manual_seed(config.seed)
    stack: list[Stack] = []

    def decide(observations: torch.Tensor) -> NDArray[np.int64]:
        seen = observations.cpu()
        if policy.config.obs_type == "gray":
            if stack:
                seen = stack[0].push(seen)
            else:
                stack.append(Stack(seen))
                seen = stack[0].frames
        return policy.act(seen, generator).numpy()

    return play_dream(env, decide, config.seed)


def _players(config: JudgeConfig, world: World, source: SourceConfig) -> Choose:
    """Random or scripted players, one for each game."""
    generators = [np.random.default_rng((config.seed, i)) for i in range(config.episodes)]
    if config.policy == "random":
        players: list[Player] = [RandomPlayer(len(world.actions), rng) for rng in generators]
    else:
        script = SCRIPTED.get(source.behaviour or "")
        if script is None:
            raise WorldsimError(f"source {source.name} has no scripted player: give policy=random or a file")
        players = [script(world.actions, rng, source.height) for rng in generators]
    return lambda _, states: np.array([player.act(state) for player, state in zip(players, states, strict=True)])


@command("agent")
def main(settings: dict[str, Any]) -> None:
    """Judge a policy in the dream and in the real game."""
    config = from_dict(JudgeConfig, settings)
    if config.threads:
        torch.set_num_threads(config.threads)
    report = judge(config)
    for place in config.where:
        told = report[place]
        low, high = told["mean_interval_95"]
        print(
            f"{place:<6} return {told['mean']:.2f} [{low:.2f}, {high:.2f}], median {told['median']:.1f}, "
            f"{told['episodes']} episodes"
        )
    if config.out:
        write_atomically(config.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    import sys

    sys.exit(main())
