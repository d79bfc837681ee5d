"""A world as a Gymnasium environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from numpy.typing import NDArray

from worldsim.engine.session import Session
from worldsim.engine.state import SessionState
from worldsim.envs.observation import Observer
from worldsim.errors import ActionError, StartError, WorldsimError
from worldsim.world import World, load_world

STATE_VERSION = 1


@dataclass(frozen=True)
class Latency:
    """What a step took on this machine, in milliseconds.

    Times are no part of what an environment computes, so any two of these compare equal: the same seed and
    actions give equal ``info``.

    Attributes:
        response_ms: From the action to its frame.
        stages: By stage of :class:`~worldsim.engine.session.Session`; those after the frame included.
    """

    response_ms: float = field(compare=False)
    stages: dict[str, float] = field(compare=False)


@dataclass(frozen=True, eq=False)
class EnvState:
    """A :class:`WorldEnv` at one moment: plain arrays and numbers, so its owner may pickle it."""

    version: int
    session: SessionState
    over: bool


class WorldEnv(gym.Env[NDArray[Any], np.int64]):
    """The dream of a world, behind the interface of the game it was learned from.

    Observations are frames, see ``obs_type``; rewards are -1, 0 or +1 a tick; ``terminated`` is what the world
    predicts, or a side at its score limit, or the last life lost; ``truncated`` is set after the world's own longest
    episode, however many ticks a step has.

    ``info`` holds ``latency`` (:class:`Latency`), ``score`` (points for, points against), ``tick`` and, in a world that
    has some, ``lives`` left.

    Args:
        world: A name, a folder, ``hf:owner/name``, or a world. Environments of one folder share its weights.
        render_mode: ``"rgb_array"`` or ``None``.
        steps: Denoising steps per frame, 1 to 64; the world's own choice if not given.
        action_repeat: Ticks an action is held; rewards add up, and the last frame is the observation.
        max_ticks: Ticks after which an episode is truncated; the world's own if not given, 0 for never.
        obs_type: ``"rgb"``, ``"gray"`` or ``"latent"``, see :class:`~worldsim.envs.observation.Observer`.
        device, dtype, backend: See :class:`~worldsim.engine.session.Session`.

    Raises:
        WorldError: no such world, or a bad one.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        world: str | Path | World = "pong",
        *,
        render_mode: str | None = None,
        steps: int | None = None,
        action_repeat: int = 1,
        max_ticks: int | None = None,
        obs_type: str = "rgb",
        device: str = "cpu",
        dtype: str | None = None,
        backend: str = "eager",
    ) -> None:
        check_settings(render_mode, action_repeat, max_ticks)
        self.world = world if isinstance(world, World) else load_world(world)
        config = self.world.config
        self.render_mode = render_mode
        self.action_repeat = action_repeat
        self.max_ticks = config.max_episode_steps if max_ticks is None else max_ticks
        self.metadata = {**self.metadata, "render_fps": config.fps / action_repeat}
        self._observer = Observer(self.world, obs_type)
        self.observation_space = self._observer.space
        self.action_space = spaces.Discrete(len(self.world.actions))
        self.session = Session(self.world, steps=steps, device=device, dtype=dtype, backend=backend)
        self._seeded = False
        self._over: bool | None = None  # None: never reset
        self._closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds everything that is drawn from now on; the same seed and actions give the same bytes.
            options: ``{"start": ...}``: ``"episode"`` (the default: one of the world's beginnings, drawn), a
                start's name or number, or (frames uint8 [N, H, W, 3], actions [N-1]) to continue from.

        Raises:
            StartError: an unknown option or start, or frames and actions that do not fit this world.
        """
        self._require_open("reset")
        options = check_options(options, ("start",))
        super().reset(seed=seed)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**63))
        frames = self.session.reset(start=options.get("start"), seed=seed)
        self._seeded, self._over = True, False
        return self._observer.array(self.session, frames)[0], self._info(Latency(0.0, {}))

    def step(self, action: int | np.integer) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action for ``action_repeat`` ticks, or until the episode ends.

        Raises:
            ActionError: not a whole number, or out of range.
            ResetNeeded: before the first reset, or after the episode's end.
            ClosedEnvironmentError: after :meth:`close`.
        """
        self._require_open("step")
        if self._over is not False:
            raise ResetNeeded("call env.reset() before env.step()" + (": the episode is over" if self._over else ""))
        if np.ndim(action) != 0:
            raise ActionError(f"an action must be one whole number, not of shape {list(np.shape(action))}")
        reward, stages = 0.0, dict.fromkeys(("decode", "to_uint8", "encode", "outcome"), 0.0)
        for _ in range(self.action_repeat):
            frames, outcome = self.session.step([action])  # type: ignore[list-item]
            reward += float(outcome.reward[0])
            for stage, took in self.session.stopwatch.last.items():
                stages[stage] += took
            terminated = bool(outcome.terminated[0])
            truncated = bool(0 < self.max_ticks <= self.session.tick[0])
            if terminated or truncated:
                break
        self._over = terminated or truncated
        latency = Latency(stages["decode"] + stages["to_uint8"], stages)
        observation = self._observer.array(self.session, frames)[0]
        return observation, reward, terminated, truncated, self._info(latency)

    def render(self) -> NDArray[np.uint8] | None:
        """The current frame, uint8 [H, W, 3].

        Raises:
            ResetNeeded: before the first reset.
        """
        self._require_open("render")
        if self._over is None:
            raise ResetNeeded("call env.reset() before env.render()")
        if self.render_mode is None:
            gym.logger.warn('env.render() shows nothing: make the environment with render_mode="rgb_array"')
            return None
        return self.session.frames[0]

    def close(self) -> None:
        """Let go of the session, not of the weights that other environments share. Twice is harmless."""
        self._closed = True
        self.session.close()

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Pressed pygame key codes, sorted, to action number (for ``gymnasium.utils.play``)."""
        return self.world.actions.to_gymnasium()

    def clone_state(self) -> EnvState:
        """All that is needed to continue bit for bit, as plain arrays.

        Raises:
            ResetNeeded: before the first reset.
        """
        self._require_open("clone_state")
        if self._over is None:
            raise ResetNeeded("call env.reset() before env.clone_state()")
        return EnvState(STATE_VERSION, self.session.snapshot(), self._over)

    def restore_state(self, state: EnvState) -> NDArray[Any]:
        """Continue from a cloned state, of this environment or another of the same world.

        Returns:
            The state's observation.

        Raises:
            WorldsimError: a state of another world, version or dtype, or a damaged one. The environment is as
                before.
        """
        self._require_open("restore_state")
        if not isinstance(state, EnvState) or state.version != STATE_VERSION:
            raise WorldsimError(
                f"not a state of this environment ({type(state).__name__}): use what clone_state() returned"
            )
        self.session.restore(state.session)
        self._over, self._seeded = bool(state.over), True
        return self._observer.array(self.session, self.session.frames)[0]

    def _info(self, latency: Latency) -> dict[str, Any]:
        score, tick = self.session.score[0], self.session.tick[0]
        info = {"latency": latency, "score": (int(score[0]), int(score[1])), "tick": int(tick)}
        return info if self.session.lives is None else info | {"lives": int(self.session.lives[0])}

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise ClosedEnvironmentError(f"cannot {what}: the environment is closed, make a new one")


def check_settings(render_mode: str | None, action_repeat: int, max_ticks: int | None) -> None:
    """What environments of one row and of many are told alike.

    Raises:
        WorldsimError: one of them is out of range.
    """
    if render_mode not in (None, *WorldEnv.metadata["render_modes"]):
        raise WorldsimError(f"render_mode {render_mode!r} is not supported: use 'rgb_array', or play.py for a window")
    if isinstance(action_repeat, bool) or not isinstance(action_repeat, int) or action_repeat < 1:
        raise WorldsimError(f"action_repeat must be a whole number from 1 on, not {action_repeat!r}")
    if max_ticks is not None and (isinstance(max_ticks, bool) or not isinstance(max_ticks, int) or max_ticks < 0):
        raise WorldsimError(f"max_ticks must be a whole number from 0 on, or none, not {max_ticks!r}")


def check_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The options of a reset.

    Raises:
        StartError: one that there is not.
    """
    unknown = [key for key in options or {} if key not in known]
    if unknown:
        raise StartError(f"unknown reset option {unknown[0]!r}: there is {', '.join(map(repr, known))}")
    return dict(options or {})
