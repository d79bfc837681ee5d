"""A world as a Gymnasium vector environment: one batched dream, not many environments side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine.inputs import check_actions, check_rows
from worldsim.engine.session import Session
from worldsim.engine.state import SessionState
from worldsim.envs.observation import Observer
from worldsim.envs.world_env import Latency, WorldEnv, check_options, check_settings
from worldsim.errors import StartError, WorldsimError
from worldsim.world import World, load_world

STATE_VERSION = 1


@dataclass(frozen=True, eq=False)
class VectorState:
    """Rows of a :class:`WorldVectorEnv` at one moment: plain arrays and numbers, so its owner may pickle it."""

    version: int
    session: SessionState
    over: NDArray[np.bool_]
    steps: NDArray[np.int64]


class WorldVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """Many dreams of one world as one batch. Row i plays as a :class:`~worldsim.envs.world_env.WorldEnv` of its own.

    The same seed and actions give a row the same bytes whatever the other rows do, and what a single environment gives,
    but for rounding: processors add up a batch of N in another order than one of 1, so that now and then a pixel is one
    grey level off, and what follows from it.

    ``infos`` holds for every row ``score`` int64 [N, 2] (points for, points against), ``tick`` int64 [N], in a world
    that has some ``lives`` int64 [N], and ``latency``, with Gymnasium's masks ``_score`` and so on. What a row showed
    last before it was reset in the same step (``AutoresetMode.SAME_STEP``) is in ``final_obs`` and ``final_info``.

    Args:
        num_envs: Rows.
        world, steps, action_repeat, max_ticks, obs_type, render_mode, device, dtype, backend: As for
            :class:`~worldsim.envs.world_env.WorldEnv`.
        max_episode_steps: Steps after which a row is truncated; ``None`` for never.
        autoreset_mode: ``NEXT_STEP``: the step after a row's end resets it, whatever its action, and rewards 0.
            ``SAME_STEP``: it is reset in the step that ends it. ``DISABLED``: ``reset(options={"reset_mask": ...})``
            must do so before the next step.
        tensors: Observations, rewards, terminations and truncations are tensors on ``device`` instead of arrays. They
            are good until the next step or reset; frames never leave a GPU.

    Raises:
        WorldError: no such world, or a bad one.
        WorldsimError: a setting is out of range.
        BackendError: the device, dtype or backend cannot be used here.
    """

    metadata: dict[str, Any] = {**WorldEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        world: str | Path | World = "pong",
        *,
        render_mode: str | None = None,
        steps: int | None = None,
        action_repeat: int = 1,
        max_ticks: int | None = None,
        max_episode_steps: int | None = None,
        obs_type: str = "rgb",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        tensors: bool = False,
        device: str = "cpu",
        dtype: str | None = None,
        backend: str = "eager",
    ) -> None:
        check_settings(render_mode, action_repeat, max_ticks)
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise WorldsimError(f"num_envs must be a whole number from 1 on, not {num_envs!r}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise WorldsimError(f"max_episode_steps must be at least 1, or none, not {max_episode_steps!r}")
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            modes = ", ".join(mode.value for mode in AutoresetMode)
            raise WorldsimError(f"autoreset_mode {autoreset_mode!r} is not one of {modes}") from error
        self.world = world if isinstance(world, World) else load_world(world)
        config = self.world.config
        self.num_envs, self.render_mode, self.action_repeat = num_envs, render_mode, action_repeat
        self.max_ticks = config.max_episode_steps if max_ticks is None else max_ticks
        self.max_episode_steps = max_episode_steps
        self.metadata = {
            **self.metadata,
            "render_fps": config.fps / action_repeat,
            "autoreset_mode": self.autoreset_mode,
        }
        self._observer, self._tensors = Observer(self.world, obs_type), tensors
        self.single_observation_space = self._observer.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = spaces.Discrete(len(self.world.actions))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.session = Session(self.world, num_envs, steps=steps, device=device, dtype=dtype, backend=backend)
        self._observations: Tensor | None = None  # [N, ...] on the device, of every row's last step or reset
        self._over = np.zeros(num_envs, bool)  # rows that wait to be reset
        self._steps = np.zeros(num_envs, np.int64)  # of the running episodes
        self._seeded = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: Row i draws from ``seed + i`` from now on, or from ``seed[i]``; ``None`` draws on.
            options: ``{"start": ...}`` as for a single environment, or a list with one for each row that is reset;
                ``{"reset_mask": bool [N]}``: only these rows.

        Raises:
            StartError: an unknown option or start, or one that does not fit this world.
            WorldsimError: a bad seed or mask.
            ClosedEnvironmentError: after :meth:`close`.
        """
        self._require_open("reset")
        options = check_options(options, ("start", "reset_mask"))
        rows = self._masked(options["reset_mask"]) if "reset_mask" in options else list(range(self.num_envs))
        if len(rows) < self.num_envs:
            self._require_reset("reset some rows")
        self._reset_rows(rows, options.get("start"), self._seeds(seed, rows))
        infos = self._infos(Latency(0.0, {}))
        if len(rows) < self.num_envs:
            keep = np.isin(np.arange(self.num_envs), rows)
            infos |= {key: keep for key in infos if key.startswith("_")}
        return self._given(self._require_reset("reset")), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take every row's action for ``action_repeat`` ticks, or until its episode ends.

        Args:
            actions: Whole numbers [N].

        Returns:
            Observations [N, ...], rewards float64 [N], terminations bool [N], truncations bool [N], infos.

        Raises:
            ActionError: not whole numbers, of another shape, or out of range; nothing has changed.
            ResetNeeded: before the first reset, or after the end of a row with ``AutoresetMode.DISABLED``.
            ClosedEnvironmentError: after :meth:`close`.
        """
        self._require_open("step")
        self._require_reset("step")
        given = check_actions(_on_host(actions), self.num_envs, len(self.world.actions))
        if self.autoreset_mode is AutoresetMode.DISABLED and self._over.any():
            over = ", ".join(map(str, np.flatnonzero(self._over)))
            raise ResetNeeded(f"row {over} is over: call reset(options={{'reset_mask': ...}}) before step()")
        waiting = np.flatnonzero(self._over)  # rows that NEXT_STEP resets in this step
        rewards, terminations, truncations, latency = self._tick(given)
        if len(waiting):
            self._reset_rows(waiting.tolist(), None, [None] * len(waiting))
        self._over = terminations | truncations
        self._steps[~np.isin(np.arange(self.num_envs), waiting)] += 1
        if self.max_episode_steps is not None:
            truncations |= self._steps >= self.max_episode_steps
            self._over |= truncations
        infos = self._infos(latency)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._over.any():
            ended = np.flatnonzero(self._over)
            final = self._given(self._require_reset("step").clone())
            held = {key: value for key, value in infos.items() if not key.startswith("_")}
            for row in ended:
                last = {key: value[row] for key, value in held.items()}
                self._add_info(infos, {"final_obs": final[row], "final_info": last}, int(row))
            self._reset_rows(ended.tolist(), None, [None] * len(ended))
            infos |= self._infos(latency)
        results = rewards, terminations, truncations
        if self._tensors:
            results = tuple(torch.from_numpy(part).to(self.session.device) for part in results)  # type: ignore[assignment]
        return self._given(self._require_reset("step")), *results, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Every row's current frame, uint8 [H, W, 3].

        Raises:
            ResetNeeded: before the first reset.
        """
        self._require_open("render")
        self._require_reset("render")
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing: make the environment with render_mode="rgb_array"')
            return None
        return tuple(self.session.frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the session, not of the weights that other environments share."""
        self.session.close()

    def clone_state(self, rows: Sequence[int] | NDArray[np.integer] | None = None) -> VectorState:
        """All that rows need to continue bit for bit, as plain arrays; ``None`` is all of them.

        Raises:
            ResetNeeded: before the first reset.
            WorldsimError: no such row.
        """
        self._require_open("clone_state")
        self._require_reset("clone_state")
        chosen = check_rows(rows, self.num_envs)
        return VectorState(
            STATE_VERSION, self.session.snapshot(chosen), self._over[chosen].copy(), self._steps[chosen].copy()
        )

    def restore_state(self, state: VectorState, rows: Sequence[int] | NDArray[np.integer] | None = None) -> Any:
        """Continue rows from a cloned state, of these or other rows, of this environment or another of the same world.

        Returns:
            The observations of all rows, [N, ...].

        Raises:
            WorldsimError: a state of another world, version, dtype or number of rows, a damaged one, or no such row.
                The environment is as before.
            ResetNeeded: some rows before the first reset.
        """
        self._require_open("restore_state")
        if not isinstance(state, VectorState) or state.version != STATE_VERSION:
            raise WorldsimError(f"not a state of this environment: {type(state).__name__}, use what clone_state() gave")
        chosen = check_rows(rows, self.num_envs)
        if len(chosen) < self.num_envs:
            self._require_reset("restore some rows")
        self.session.restore(state.session, chosen)
        self._over[chosen], self._steps[chosen] = state.over, state.steps
        self._seeded = True
        self._observe(chosen)
        return self._given(self._require_reset("restore_state"))

    def _tick(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Latency]:
        """``action_repeat`` ticks of the rows that are not over."""
        session = self.session
        done = self._over.copy()
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        stages = dict.fromkeys(("decode", "to_uint8", "encode", "outcome"), 0.0)
        for number in range(self.action_repeat):
            idle = np.flatnonzero(done)
            if len(idle) == self.num_envs:
                break
            session.render_on_device(actions, idle)
            outcome = session.commit()
            rewards += outcome.reward
            for stage, took in session.stopwatch.last.items():
                stages[stage] += took
            late = (session.tick >= self.max_ticks) & ~done if self.max_ticks else np.zeros_like(done)
            terminations |= outcome.terminated
            truncations |= late
            ending = ~done if number == self.action_repeat - 1 else outcome.terminated | late
            self._observe(np.flatnonzero(ending).tolist())
            done |= ending
        return rewards, terminations, truncations, Latency(stages["decode"] + stages["to_uint8"], stages)

    def _observe(self, rows: list[int]) -> None:
        """Take what the session shows of some rows as their observations."""
        made = self._observer.tensor(self.session, self.session.shown)
        if self._observations is None:
            self._observations = torch.empty_like(made)
        if len(rows) == self.num_envs:
            self._observations.copy_(made)
        else:
            self._observations[rows] = made[rows]

    def _reset_rows(self, rows: list[int], start: Any, seeds: list[int | None]) -> None:
        starts = start if isinstance(start, list) else [start] * len(rows)
        if len(starts) != len(rows):
            raise StartError(f"{len(starts)} starts were given for {len(rows)} rows: give one, or one each")
        seeded = [k for k, seed in enumerate(seeds) if seed is not None]
        drawing_on = [k for k, seed in enumerate(seeds) if seed is None]
        for some in (part for part in (seeded, drawing_on) if part):
            given = [seeds[k] for k in seeded] if some is seeded else None
            self.session.reset([rows[k] for k in some], [starts[k] for k in some], given)  # type: ignore[arg-type]
        self._seeded = True
        self._over[rows], self._steps[rows] = False, 0
        self._observe(rows)

    def _seeds(self, seed: int | Sequence[int | None] | None, rows: list[int]) -> list[int | None]:
        """A seed for each of the rows, or ``None`` where it draws on."""
        if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
            super().reset(seed=int(seed) % 2**63)
            return [int(seed) + row for row in rows]
        if seed is None:
            seed = [None] * self.num_envs
        given = list(seed) if isinstance(seed, Sequence | np.ndarray) else [seed]
        if len(given) != self.num_envs:
            raise WorldsimError(f"{len(given)} seeds were given for {self.num_envs} rows: give one, or one each")
        if not self._seeded:
            fresh = self.np_random.integers(2**63, size=self.num_envs).tolist()
            given = [new if one is None else one for one, new in zip(given, fresh, strict=True)]
        return [given[row] for row in rows]

    def _masked(self, mask: Any) -> list[int]:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise WorldsimError(f"reset_mask must be a bool array of shape [{self.num_envs}], not {mask!r}")
        if not mask.any():
            raise WorldsimError("reset_mask names no row: leave it out to reset all, or call nothing")
        rows: list[int] = np.flatnonzero(mask).tolist()
        return rows

    def _infos(self, latency: Latency) -> dict[str, Any]:
        session, everyone = self.session, np.ones(self.num_envs, bool)
        shared = np.full(self.num_envs, latency, dtype=object)
        values = {"latency": shared, "score": session.score.copy(), "tick": session.tick.copy()}
        if session.lives is not None:
            values["lives"] = session.lives.copy()
        return values | {f"_{key}": everyone.copy() for key in values}

    def _given(self, observations: Tensor) -> Any:
        """Observations as the caller wants them, and the caller's own unless they are tensors."""
        if self._tensors:
            return observations
        array = observations.cpu().numpy()
        return array.copy() if observations.device.type == "cpu" else array

    def _require_open(self, what: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"cannot {what}: the environment is closed, make a new one")

    def _require_reset(self, what: str) -> Tensor:
        if self._observations is None:
            raise ResetNeeded(f"cannot {what}: call reset() first")
        return self._observations


def _on_host(actions: Any) -> Any:
    return actions.cpu().numpy() if isinstance(actions, Tensor) else actions
