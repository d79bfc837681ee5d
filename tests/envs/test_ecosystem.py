"""What other libraries' own checks say of our environments, and that they train in them."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.world_env import WorldEnv
from worldsim.errors import WorldsimError
from worldsim.world import World

GENERIC = "worldsim:WorldSim/World-v0"

needs_sb3 = pytest.mark.skipif(not importlib.util.find_spec("stable_baselines3"), reason="pip install 'worldsim[rl]'")
needs_torchrl = pytest.mark.skipif(not importlib.util.find_spec("torchrl"), reason="pip install 'worldsim[rl]'")


@needs_sb3
@pytest.mark.parametrize("obs_type", ["gray", "latent"])
def test_stable_baselines_own_check_finds_nothing(tiny_world: World, obs_type: str) -> None:
    """Without its warnings on images: the tiny world's are smaller than its default network takes."""
    from stable_baselines3.common.env_checker import check_env

    check_env(WorldEnv(tiny_world, obs_type=obs_type, render_mode="rgb_array"), warn=False)


@needs_sb3
def test_the_vec_env_is_what_dummy_vec_env_makes_of_single_environments(tiny_world: World) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    from worldsim.envs.sb3 import WorldVecEnv

    settings: dict[str, Any] = {"world": tiny_world, "dtype": "float32", "max_ticks": 7, "render_mode": "rgb_array"}
    mine: VecEnv = WorldVecEnv(2, **settings)
    theirs = DummyVecEnv([lambda: WorldEnv(**settings)] * 2)
    assert mine.seed(3) == theirs.seed(3) == [3, 4]
    np.testing.assert_array_equal(mine.reset(), theirs.reset())
    assert mine.observation_space == theirs.observation_space and mine.action_space == theirs.action_space
    ends = 0
    for step in range(20):
        actions = np.array([step % 3, (step + 1) % 3])
        one, two = mine.step(actions), theirs.step(actions)
        assert abs(one[0].astype(int) - two[0]).mean() < 0.5, "but for rounding"
        np.testing.assert_array_equal(one[1], two[1])
        np.testing.assert_array_equal(one[2], two[2])
        assert one[0].dtype == two[0].dtype and one[1].dtype == two[1].dtype and one[2].dtype == two[2].dtype
        for my_info, info in zip(one[3], two[3], strict=True):
            assert my_info.get("TimeLimit.truncated", False) == info["TimeLimit.truncated"]
            assert ("terminal_observation" in my_info) == ("terminal_observation" in info)
            assert my_info["tick"] == info["tick"]
        ends += one[2].sum()
    assert ends == 4
    image = mine.render("rgb_array")
    assert image is not None and image.shape == theirs.render("rgb_array").shape  # type: ignore[union-attr]
    assert mine.get_attr("action_repeat") == [1, 1] and mine.has_attr("world") and not mine.has_attr("no_such_thing")
    assert mine.env_is_wrapped(gym.Wrapper, indices=[1]) == [False]
    with pytest.raises(WorldsimError, match="share"):
        mine.set_attr("render_mode", None, indices=0)
    with pytest.raises(WorldsimError, match="leave it out"):
        WorldVecEnv(2, world=tiny_world, tensors=True)
    mine.close()
    mine.close()


@needs_sb3
def test_ppo_of_stable_baselines_trains_in_it(tiny_world: World) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    from worldsim.envs.sb3 import WorldVecEnv

    env = VecMonitor(WorldVecEnv(2, world=tiny_world, obs_type="latent", max_ticks=5))
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    agent.learn(32)
    assert agent.num_timesteps == 32 and len(agent.ep_info_buffer or ()) == 6


@needs_torchrl
def test_torchrls_own_check_finds_nothing(tiny_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchRL's own, on import
        from torchrl.envs import GymEnv, GymWrapper, check_env_specs

    env = GymWrapper(WorldEnv(str(tiny_folder)))
    check_env_specs(env)
    named = GymEnv(GENERIC, world=str(tiny_folder))
    assert named.rollout(3)["pixels" if "pixels" in named.observation_spec else "observation"].shape[0] == 3


def test_gymnasiums_wrappers_stand_on_top(tiny_world: World) -> None:
    env: gym.Env[Any, Any] = WorldEnv(tiny_world, obs_type="gray", render_mode="rgb_array", max_ticks=6)
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FrameStackObservation(env, 4))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4, 16, 24) and observation in env.observation_space
    for _ in range(6):
        *_, truncated, info = env.step(1)
    assert truncated and info["episode"]["l"] == 6


@pytest.mark.skipif(not importlib.util.find_spec("moviepy"), reason="pip install 'worldsim[video]'")
def test_gymnasium_films_it(tiny_world: World, tmp_path: Path) -> None:
    env = gym.wrappers.RecordVideo(
        WorldEnv(tiny_world, render_mode="rgb_array"), str(tmp_path), video_length=4, disable_logger=True
    )
    env.reset(seed=0)
    for _ in range(5):
        env.step(0)
    env.close()
    assert [path.suffix for path in tmp_path.glob("*.mp4")] == [".mp4"]
