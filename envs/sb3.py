"""A batched world as a vector environment of Stable-Baselines3: ``pip install 'worldsim[rl]'``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import MissingExtra, WorldsimError

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise MissingExtra("stable-baselines3", "rl") from error


class WorldVecEnv(VecEnv):
    """:class:`~worldsim.envs.vector_env.WorldVectorEnv` with the interface of Stable-Baselines3.

    A row that ends is reset in the same step; its last observation is in ``infos[row]["terminal_observation"]``, and
    ``infos[row]["TimeLimit.truncated"]`` says whether it was cut off rather than over.

    Args:
        num_envs: Rows.
        settings: See :class:`~worldsim.envs.vector_env.WorldVectorEnv`; ``autoreset_mode`` and ``tensors`` are settled.

    Raises:
        WorldError, WorldsimError, BackendError: as there.
    """

    def __init__(self, num_envs: int, **settings: Any) -> None:
        settled = {"autoreset_mode", "tensors"} & settings.keys()
        if settled:
            raise WorldsimError(f"{settled.pop()} is settled by Stable-Baselines3: leave it out")
        self.env = WorldVectorEnv(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **settings)
        self._actions: Any = None
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)

    def reset(self) -> NDArray[Any]:
        """First observations [N, ...], with the seeds and options that were set since the last reset."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        starts = [options.get("start") for options in self._options]
        observations, infos = self.env.reset(seed=seeds, options={"start": starts})
        self.reset_infos = self._rows(infos)
        self._reset_seeds()
        self._reset_options()
        first: NDArray[Any] = observations
        return first

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations [N, ...], rewards float32 [N], dones bool [N] and a dictionary for each row."""
        observations, rewards, terminations, truncations, infos = self.env.step(self._actions)
        dones = terminations | truncations
        rows = self._rows(infos)
        for row in np.flatnonzero(dones):
            self.reset_infos[row] = rows[row]  # of the episode that begins; the step's own are of the one that ends
            rows[row] = {key: infos["final_info"][key][row] for key in rows[row]}
            rows[row]["terminal_observation"] = infos["final_obs"][row]
            rows[row]["TimeLimit.truncated"] = bool(truncations[row] and not terminations[row])
        return observations, rewards.astype(np.float32), dones, rows

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Every row's current frame."""
        return self.env.render() or [None] * self.num_envs

    def close(self) -> None:
        """Let go of the session. Twice is harmless."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the batched environment, once for each row that is asked for.

        Raises:
            AttributeError: there is no such attribute.
        """
        return [getattr(self.env, attr_name)] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the batched environment; rows have none of their own.

        Raises:
            WorldsimError: it was asked for some rows only.
        """
        if len(self._chosen(indices)) < self.num_envs:
            raise WorldsimError(f"rows of one batch share {attr_name}: set it for all of them")
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the batched environment, once; its result stands for each row that is asked for."""
        return [getattr(self.env, method_name)(*args, **kwargs)] * len(self._chosen(indices))

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """Rows of one batch wear no wrappers."""
        return [False] * len(self._chosen(indices))

    def _chosen(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))

    def _rows(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        keys = [key for key in infos if not key.startswith(("_", "final_"))]
        return [{key: infos[key][row] for key in keys} for row in range(self.num_envs)]
