"""Behaviour for recording: stretches of skill, clumsiness, idleness and held keys, drawn from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.actions import ActionTable
from worldsim.agents.random import HeldPlayer, RandomPlayer
from worldsim.agents.scripted import SCRIPTED, SKILLS, Player
from worldsim.envs.source_state import State
from worldsim.errors import SourceError

BEHAVIOURS = ("scripted", "clumsy", "random", "idle", "held")


@dataclass(frozen=True)
class MixtureConfig:
    """How play is mixed.

    Attributes:
        idle, held, random: mean share of an episode's ticks without any action, with one held action, wholly
            random; scripted play (random where a game has no script) takes the rest. Good play makes Pong
            episodes long, so of all ticks these are less: .09, .041 and .033 were measured over 1.2 M ticks.
        idle_seconds, held_seconds, random_seconds, scripted_seconds: (shortest, longest) stretch.
        epsilon: (smallest, largest) share of random actions within scripted play, drawn for each stretch.
        steady: share of scripted stretches at the smallest epsilon: rallies need them.
        longest_random: ticks a random action is held at most.
        sharp: share of episodes in which idle, held and random stretches take a quarter of their share, so
            that rallies last; in the others they take more, to keep the means.
        opening: no-op ticks at the start of an episode, at most.
        skill: of the scripted player, e.g. ``"expert"``: demonstrations; None: a manner drawn for each stretch.
    """

    idle: float = 0.12
    held: float = 0.06
    random: float = 0.04
    idle_seconds: tuple[float, float] = (2.0, 20.0)
    held_seconds: tuple[float, float] = (1.0, 12.0)
    random_seconds: tuple[float, float] = (0.5, 5.0)
    scripted_seconds: tuple[float, float] = (0.5, 12.0)
    epsilon: tuple[float, float] = (0.05, 1.0)
    steady: float = 0.85
    longest_random: int = 4
    sharp: float = 0.5
    opening: int = 30
    skill: str | None = None

    def __post_init__(self) -> None:
        lulls = self.idle + self.held + self.random
        if min(self.idle, self.held, self.random) < 0 or lulls > 0.55:
            raise SourceError(f"behaviour: idle, held and random are 0 or more and 0.55 in sum, not {lulls:g}")
        for name, highest in {"sharp": 0.5, "steady": 1.0}.items():
            if not 0 <= getattr(self, name) <= highest:
                raise SourceError(f"behaviour: {name} is a share from 0 to {highest}, not {getattr(self, name)}")
        if self.epsilon[1] > 1 or self.longest_random < 1 or self.opening < 0:
            raise SourceError("behaviour: epsilon is at most 1, longest_random at least 1, opening at least 0")
        for name in ("idle_seconds", "held_seconds", "random_seconds", "scripted_seconds", "epsilon"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise SourceError(f"behaviour: {name} is [{low}, {high}]: give [smallest, largest], above 0")
        if self.skill is not None and self.skill not in SKILLS:
            raise SourceError(f"behaviour: skill is one of {', '.join(SKILLS)} or null, not {self.skill!r}")


class Mixture:
    """Plays one episode.

    Args:
        config: the shares.
        actions: the source's actions.
        fps: decisions a second.
        script: name of the scripted player, or None.
        rng: everything random comes from it.
        pixels: of its frames, each way.

    Raises:
        SourceError: there is no such script.
    """

    def __init__(
        self,
        config: MixtureConfig,
        actions: ActionTable,
        fps: float,
        script: str | None,
        rng: np.random.Generator,
        pixels: int = 64,
    ) -> None:
        if script is not None and script not in SCRIPTED:
            raise SourceError(f"no scripted player {script!r}: there are {', '.join(SCRIPTED)}")
        self._config, self._actions, self._fps, self._rng = config, actions, fps, rng
        self._pixels = pixels
        self._script = SCRIPTED[script] if script else None
        spans = {
            "idle": config.idle_seconds,
            "held": config.held_seconds,
            "random": config.random_seconds,
            "scripted": config.scripted_seconds,
        }
        lull = 0.25 if rng.random() < config.sharp else (1 - 0.25 * config.sharp) / (1 - config.sharp)
        shares = {"idle": lull * config.idle, "held": lull * config.held, "random": lull * config.random}
        shares["scripted"] = 1 - sum(shares.values())
        weights = np.array([shares[kind] / sum(spans[kind]) for kind in spans])  # time share over mean length
        self._spans, self._weights = spans, weights / weights.sum()
        self._player: Player = HeldPlayer(actions.noop)
        self._kind = BEHAVIOURS.index("idle")
        self._left = int(rng.integers(config.opening + 1))
        self._epsilon = 0.0
        self._fumble, self._fumble_left = actions.noop, 0

    def act(self, state: State) -> tuple[int, int]:
        """The action for this tick and its kind, an index into ``BEHAVIOURS``: random, within scripted play as well."""
        while self._left == 0:
            self._next_stretch()
        self._left -= 1
        action, kind = self._player.act(state), self._kind
        if self._fumble_left == 0 and self._epsilon and self._rng.random() < self._fumble_chance():
            self._fumble_left = int(self._rng.integers(1, self._config.longest_random + 1))
            self._fumble = int(self._rng.integers(len(self._actions)))
        if self._fumble_left:
            self._fumble_left -= 1
            action, kind = self._fumble, BEHAVIOURS.index("random")
        return action, kind

    def _fumble_chance(self) -> float:
        """Chance of a burst to begin, so that bursts of mean length m cover a share epsilon of the ticks."""
        mean = (1 + self._config.longest_random) / 2
        return self._epsilon / (self._epsilon + mean * (1 - self._epsilon))

    def _next_stretch(self) -> None:
        config, rng = self._config, self._rng
        kind = list(self._spans)[int(rng.choice(len(self._weights), p=self._weights))]
        self._left = max(1, round(float(rng.uniform(*self._spans[kind])) * self._fps))
        self._epsilon, self._fumble_left = 0.0, 0
        if kind == "scripted" and self._script:
            self._player = self._script(self._actions, rng, self._pixels, config.skill)
            low, high = config.epsilon
            steady = rng.random() < config.steady
            self._epsilon = low if steady else float(np.exp(rng.uniform(np.log(low), np.log(high))))
            kind = "scripted" if self._epsilon < 0.3 else "clumsy"
        elif kind == "idle":
            self._player = HeldPlayer(self._actions.noop)
        elif kind == "held":
            self._player = HeldPlayer(int(rng.integers(len(self._actions))))
        else:
            kind = "random"
            self._player = RandomPlayer(len(self._actions), rng, config.longest_random)
        self._kind = BEHAVIOURS.index(kind)
