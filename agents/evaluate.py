"""A policy judged: episodes in the dream and in the real game, ``python -m worldsim.agents.evaluate policy=<file>``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.agents.episodes import EpisodesConfig, Play, in_dream, in_real
from worldsim.agents.players import NAMED
from worldsim.agents.policy import Policy, load_policy
from worldsim.checkpoint import write_atomically
from worldsim.errors import WorldsimError
from worldsim.film.film import check_film_path
from worldsim.machine import commit
from worldsim.settings import command, from_dict
from worldsim.world import load_world

RESAMPLES = 10_000


@dataclass(frozen=True)
class JudgeConfig(EpisodesConfig):
    """What ``configs/agent.yaml`` explains."""

    policy: str
    where: tuple[str, ...] = ("dream", "real")
    film: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
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


def judge(config: JudgeConfig) -> dict[str, Any]:
    """Play the episodes; a report of plain values.

    Raises:
        WorldsimError: no such policy or player, or a player that cannot see the dream.
    """
    facts: dict[str, Any] = {}
    who: Policy | str = config.policy
    if config.policy not in NAMED:
        who, facts = load_policy(Path(config.policy))
    world = load_world(config.world or ("pong" if isinstance(who, str) else who.config.world))
    play = Play(world, config)
    films = {place: film_path(config.film, place) for place in config.where}
    report: dict[str, Any] = {
        "policy": config.policy,
        "world": world.name,
        "fingerprint": world.fingerprint,
        "greedy": config.greedy,
        "noops": config.noops,
        "seed": config.seed,
        "commit": commit(),
        **facts,
    }
    for place in config.where:
        returns = (in_dream if place == "dream" else in_real)(play, who, films[place])
        report[place] = summary(returns, config.seed)
    return report


def film_path(film: Path | None, place: str) -> Path | None:
    """``game.mp4`` to ``game-dream.mp4``.

    Raises:
        WorldsimError: not a film's name.
    """
    return film and check_film_path(film.with_name(f"{film.stem}-{place}{film.suffix}"))


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
