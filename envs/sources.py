"""The real games that worlds are learned from, each behind one small Gymnasium environment."""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.source_config import SourceConfig, load_source
from worldsim.envs.source_state import READERS, Geometry
from worldsim.errors import ActionError, MissingExtra, SourceError

__all__ = ["Source", "SourceConfig", "SourceState", "load_source", "make_source"]

Frame = NDArray[np.uint8]

# extra -> module that registers its environments
EXTRAS = {"atari": "ale_py", "doom": "vizdoom.gymnasium_wrapper", "box2d": "Box2D"}


@dataclass(frozen=True)
class SourceState:
    """A moment of a source to come back to: the emulator's own state, or the way there to be replayed."""

    native: Any
    seed: int
    history: tuple[int, ...]
    ticks: int
    score: tuple[int, int]
    lives: int
    frame: Frame


def make_source(config: SourceConfig) -> Source:
    """The running game of a config.

    Raises:
        MissingExtra: the game's package is not installed.
        SourceError: the id is unknown, the actions are not discrete, or there are no RGB frames.
    """
    return Source(config)


class Source(gym.Env[Frame, Any]):
    """A real game as frames ``uint8 [H, W, 3]`` and numbered actions.

    ``info["state"]`` holds the game's own state (``dict[str, float]``, empty without a reader): positions in
    frame pixels (see :mod:`worldsim.envs.source_state`) that belong to the returned frame. A step's
    ``info["life_lost"]`` says whether it took one of the config's ``lives``.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own shape

    def __init__(self, config: SourceConfig) -> None:
        self._env = _make(config)
        self.render_mode = "rgb_array"
        space = self._env.action_space
        if not isinstance(space, gym.spaces.Discrete):
            self._env.close()
            fix = "a source needs Discrete ones (try kwargs in its config)"
            raise SourceError(f"{config.id} has actions {space}: {fix}")
        self._first = int(space.start)
        self._key = _image_key(self._env.observation_space)
        self.config = _resolve(config, self._env, int(space.n))
        self.actions = self.config.action_table()
        if len(self.actions) != space.n:
            self._env.close()
            named = f"source {config.name} names {len(self.actions)} actions"
            raise SourceError(f"{named}, but {config.id} has {space.n}: mend its config")
        self.action_space = gym.spaces.Discrete(len(self.actions))
        shape = (config.height, config.width, 3)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self._native = hasattr(self._env.unwrapped, "restore_state")
        self._frame: Frame = np.zeros(shape, np.uint8)
        self._seed = 0
        self._history: list[int] = []  # kept only where there is no native state: the way to replay
        self._ticks = 0
        self._score, self._lives = (0, 0), 0
        self._reader = READERS[config.state] if config.state else None
        self._geometry: Geometry | None = None

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state columns; known after the first reset."""
        return tuple(self._state())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Start an episode: the first frame and its info. The same seed gives the same game."""
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._history, self._ticks, self._score = [], 0, (0, 0)
        observation, told = self._env.reset(seed=self._seed, options=options)
        for _ in range(self.config.warm_up):
            observation, *_, told = self._env.step(self.config.noop + self._first)
        self._lives = self._lives_of(told)
        self._frame = self._shrink(self._picture(observation))
        return self._frame, {"state": self._state()}

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Hold an action for ``frame_skip`` raw frames: frame, summed reward, terminated, truncated, info."""
        number = self._checked(action)
        total, terminated, truncated = 0.0, False, False
        pictures: deque[Frame] = deque(maxlen=self.config.max_over)
        for left in range(self.config.frame_skip, 0, -1):
            observation, reward, terminated, truncated, told = self._env.step(number + self._first)
            total += float(reward)
            done = terminated or truncated
            if left <= self.config.max_over or done:
                pictures.append(self._picture(observation))
            if done:
                break
        self._ticks += 1
        if not self._native:
            self._history.append(number)
        self._frame = self._shrink(pictures[0] if len(pictures) == 1 else np.maximum.reduce(list(pictures)))
        self._score = (self._score[0] + (total > 0), self._score[1] + (total < 0))
        if self.config.score_limit and max(self._score) >= self.config.score_limit:
            terminated = True
        truncated = not terminated and (truncated or self._ticks >= self.config.max_episode_steps)
        before, self._lives = self._lives, self._lives_of(told)
        info = {"state": self._state(), "life_lost": self._lives < before}
        return self._frame, total, terminated, truncated, info

    def render(self) -> Frame:  # type: ignore[override]
        """The last frame."""
        return self._frame

    def close(self) -> None:
        """Close the game."""
        self._env.close()

    def clone_state(self) -> SourceState:
        """This moment, to come back to with :meth:`restore_state`.

        A game without states of its own is replayed from its seed, which takes as long as playing it did.
        """
        game: Any = self._env.unwrapped
        native = game.clone_state(include_rng=True) if self._native else None
        count = self._ticks, self._score, self._lives
        return SourceState(native, self._seed, tuple(self._history), *count, self._frame.copy())

    def restore_state(self, state: SourceState) -> Frame:
        """Go back to a moment; returns its frame."""
        if self._native:
            game: Any = self._env.unwrapped
            game.restore_state(state.native)
        else:
            self.reset(seed=state.seed)
            for action in state.history:
                self.step(action)
        self._seed, self._history = state.seed, list(state.history)
        self._ticks, self._score, self._lives = state.ticks, state.score, state.lives
        self._frame = state.frame.copy()
        return self._frame

    def _checked(self, action: Any) -> int:
        number = np.asarray(action)
        if number.ndim or not np.issubdtype(number.dtype, np.integer):
            raise ActionError(f"an action is a whole number, not {action!r}")
        if not 0 <= number < len(self.actions):
            raise ActionError(f"action {number} is outside 0 to {len(self.actions) - 1}")
        return int(number)

    def _picture(self, observation: Any) -> Frame:
        picture = observation[self._key] if self._key else observation
        if self._key is None:
            picture = self._env.render()
        if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3):
            raise SourceError(f"{self.config.id} gives no RGB frames: make it with render_mode=rgb_array")
        if self._geometry is None:
            rows, columns = picture.shape[:2]
            top, bottom, left, right = self.config.crop or (0, rows, 0, columns)
            if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
                outside = f"crop {self.config.crop} is outside the {rows}x{columns} screen"
                raise SourceError(f"source {self.config.name}: {outside}")
            self._geometry = Geometry((top, bottom, left, right), self.config.height, self.config.width)
        return picture

    def _shrink(self, picture: Frame) -> Frame:
        assert self._geometry is not None
        top, bottom, left, right = self._geometry.crop
        field = picture[top:bottom, left:right]
        size = (self.config.width, self.config.height)
        return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _lives_of(self, told: dict[str, Any]) -> int:
        """Lives left, 0 in a game without."""
        if self.config.lives is None:
            return 0
        if "lives" not in told:
            raise SourceError(f"source {self.config.name}: {self.config.id} tells no lives: take them from its config")
        return int(told["lives"])

    def _state(self) -> dict[str, float]:
        if self._reader is None or self._geometry is None:
            return {}
        return self._reader(self._env, self._geometry)


def _make(config: SourceConfig) -> gym.Env[Any, Any]:
    if config.extra in EXTRAS:
        try:
            module = importlib.import_module(EXTRAS[config.extra])
        except ImportError as error:
            raise MissingExtra(EXTRAS[config.extra].split(".")[0], config.extra) from error
        if config.extra == "atari":
            module.ALEInterface.setLoggerMode(module.LoggerMode.Error)  # no banner in every worker
            gym.register_envs(module)
    try:
        return gym.make(config.id, disable_env_checker=True, **config.kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise SourceError(f"{config.id} needs a package that is missing: {_line(error)}") from error
    except (gym.error.Error, TypeError, ImportError) as error:
        raise SourceError(f"cannot make the source {config.id}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _image_key(space: gym.Space[Any]) -> str | None:
    """Where the image is in an observation: "" for all of it, a key, or None when render() must give it."""
    if isinstance(space, gym.spaces.Dict):
        return next((key for key, entry in space.spaces.items() if _image_key(entry) == ""), None)
    shape = space.shape or ()
    is_image = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8
    return "" if is_image and len(shape) == 3 and shape[2] == 3 else None


def _resolve(config: SourceConfig, env: gym.Env[Any, Any], count: int) -> SourceConfig:
    actions, fps = config.actions, config.fps
    if actions is None:
        meanings = getattr(env.unwrapped, "get_action_meanings", None)
        names = meanings() if meanings else [f"ACTION_{number}" for number in range(count)]
        actions = [{"name": str(name)} for name in names]
    if not fps:
        fps = float(env.metadata.get("render_fps") or 30.0) / config.frame_skip
    return replace(config, actions=actions, fps=fps)
