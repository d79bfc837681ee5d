"""Many rows of one dream behind Gymnasium's vector interface, held against single environments."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from worldsim.envs.observation import grey
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import ActionError, StartError, WorldError, WorldsimError
from worldsim.world import World

GENERIC = "worldsim:WorldSim/World-v0"
ROWS = 3


@pytest.fixture(scope="module")
def lively(make_world: Callable[..., World]) -> World:
    """A world whose rewards and ends come now and then: heads that hear their input, biased towards nothing."""
    world = make_world(seed=5, past_actions=1, settings={"score_limit": None, "max_episode_steps": 23})
    heads = world.model.heads
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in (heads.context, heads.pool.weights, heads.pool.pooled, heads.reward, heads.end):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 2 / layer.weight.shape[1] ** 0.5)
        heads.reward.bias.copy_(torch.tensor([0.0, 0.6, 0.0]))
        heads.end.bias.copy_(torch.tensor([0.5, 0.0]))
    return world


@pytest.fixture
def env(lively: World) -> Iterator[WorldVectorEnv]:
    made = WorldVectorEnv(ROWS, lively, dtype="float32")
    yield made
    made.close()


def actions(steps: int, rows: int = ROWS, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 3, (steps, rows))


def roll_out(env: Any, steps: int, seed: int = 0) -> list[Any]:
    return [env.step(row) for row in actions(steps, env.num_envs, seed)]


def singles(world: World, mode: AutoresetMode, rows: int = ROWS, **settings: Any) -> SyncVectorEnv:
    """The same rows as environments of their own, by Gymnasium's own vectoriser."""
    limit = settings.pop("max_episode_steps", None)

    def make() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = WorldEnv(world, dtype="float32", **settings)
        return gym.wrappers.TimeLimit(env, limit) if limit else env

    return SyncVectorEnv([make] * rows, autoreset_mode=mode)


def same(mine: Any, theirs: Any) -> None:
    """Equal but for rounding: 3 rows are not added up as 1 is, so a few pixels are a grey level off."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    if mine.dtype == np.uint8:
        apart = np.abs(mine.astype(int) - theirs)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.05
    else:
        np.testing.assert_allclose(mine, theirs, atol=2 / 127.5)


def take_over(env: WorldVectorEnv, alone: SyncVectorEnv) -> None:
    """Give the rows the very state of the single environments, so that rounding does not add up."""
    states = [one.unwrapped.clone_state().session for one in alone.envs]  # type: ignore[attr-defined]
    fields = {name: [getattr(state, name) for state in states] for name in vars(states[0])}
    merged = {name: np.concatenate(held) for name, held in fields.items() if isinstance(held[0], np.ndarray)}
    env.session.restore(replace(states[0], **merged))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("settings", [{}, {"action_repeat": 3}, {"max_episode_steps": 9}, {"obs_type": "latent"}])
def test_every_row_is_what_a_single_environment_gives_through_many_resets(
    lively: World, mode: AutoresetMode, settings: dict[str, Any]
) -> None:
    env = WorldVectorEnv(ROWS, lively, autoreset_mode=mode, dtype="float32", **settings)
    alone = singles(lively, mode, **settings)
    same(env.reset(seed=7)[0], alone.reset(seed=7)[0])
    ends, steps = 0, 300 if settings else 1000
    for given in actions(steps):
        take_over(env, alone)
        mine, theirs = env.step(given), alone.step(given)
        same(mine[0], theirs[0])
        for one, other in zip(mine[1:4], theirs[1:4], strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        np.testing.assert_array_equal(mine[4]["tick"], theirs[4]["tick"])
        assert [tuple(row) for row in mine[4]["score"]] == list(theirs[4]["score"])
        over = mine[2] | mine[3]
        ends += over.sum()
        assert ("final_obs" in mine[4]) == ("final_obs" in theirs[4]) == (mode.name == "SAME_STEP" and over.any())
        if "final_obs" in mine[4]:
            np.testing.assert_array_equal(mine[4]["_final_obs"], theirs[4]["_final_obs"])
            for row in np.flatnonzero(over):
                same(mine[4]["final_obs"][row], theirs[4]["final_obs"][row])
                assert mine[4]["final_info"]["tick"][row] == theirs[4]["final_info"]["tick"][row]
                assert tuple(mine[4]["final_info"]["score"][row]) == theirs[4]["final_info"]["score"][row]
        generators = env.session.snapshot().generators  # rows that waited drew nothing
        for row, one in enumerate(alone.envs):
            np.testing.assert_array_equal(generators[row], one.unwrapped.clone_state().session.generators[0])  # type: ignore[attr-defined]
    assert ends > 3 * ROWS and mine[0].shape[0] == ROWS


def test_disabled_autoreset_waits_for_the_mask(lively: World) -> None:
    env = WorldVectorEnv(ROWS, lively, autoreset_mode="Disabled", dtype="float32")
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    env.reset(seed=0)
    for given in actions(200):
        *_, terminations, truncations, _ = env.step(given)
        over = terminations | truncations
        if over.any() and not over.all():
            break
        if over.all():
            env.reset(options={"reset_mask": over})
    else:
        pytest.fail("no row ended while others went on")
    before = env.session.frames
    with pytest.raises(ResetNeeded, match=f"row {np.flatnonzero(over)[0]}"):
        env.step(actions(1)[0])
    shown, infos = env.reset(options={"reset_mask": over})
    np.testing.assert_array_equal(infos["_tick"], over)
    np.testing.assert_array_equal(shown[~over], before[~over])
    assert (infos["tick"][over] == 0).all() and (infos["tick"][~over] > 0).all()
    env.step(actions(1)[0])


def test_one_line_makes_it_and_gymnasium_finds_nothing_odd(tiny_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec(GENERIC, num_envs=2, world=str(tiny_folder), max_episode_steps=4)
    assert isinstance(env, WorldVectorEnv) and env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observation, _ = env.reset(seed=1)
    assert observation in env.observation_space and observation.dtype == np.uint8
    for number in range(1, 11):
        observation, rewards, terminations, truncations, _ = env.step(env.action_space.sample())
        assert observation in env.observation_space and rewards.dtype == np.float64
        assert truncations.all() == (number % 5 == 4) and not terminations.any()
    env.close()
    env.close()


def test_gymnasiums_vector_wrappers_stand_on_top(lively: World) -> None:
    env = gym.wrappers.vector.RecordEpisodeStatistics(WorldVectorEnv(ROWS, lively, dtype="float32"))
    plain = gym.wrappers.vector.DictInfoToList(WorldVectorEnv(ROWS, lively, dtype="float32"))
    env.reset(seed=0)
    assert [info["tick"] for info in plain.reset(seed=0)[1]] == [0] * ROWS
    lengths: list[float] = []
    for given in actions(120):
        *_, infos = env.step(given)
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths and max(lengths) <= 23


def test_a_row_draws_from_its_own_seed_whatever_the_others_do(env: WorldVectorEnv, lively: World) -> None:
    env.reset(seed=[5, 900, 31])
    mine = np.stack([step[0] for step in roll_out(env, 20)])
    env.reset(seed=[77, 900, 2])
    again = np.stack([env.step(given * [0, 1, 2] % 3)[0] for given in actions(20)])
    np.testing.assert_array_equal(mine[:, 1], again[:, 1])
    assert (mine[:, 0] != again[:, 0]).any()
    env.reset(seed=4)
    drawn_on, _ = env.reset(seed=[None, 8, None])
    assert drawn_on.shape[0] == ROWS
    fresh = [WorldVectorEnv(ROWS, lively, dtype="float32").reset()[0] for _ in range(6)]
    assert len({shown.tobytes() for shown in fresh}) > 1


def test_starts_are_given_to_all_or_one_each(env: WorldVectorEnv, lively: World) -> None:
    names = [start.name for start in lively.starts]
    assert (env.reset(options={"start": names[2]})[0] == lively.starts[2].frames[-1]).all()
    shown, _ = env.reset(options={"start": names})
    np.testing.assert_array_equal(shown, [start.frames[-1] for start in lively.starts])


def test_a_clone_continues_bit_for_bit_in_any_row_of_any_environment(env: WorldVectorEnv, lively: World) -> None:
    env.reset(seed=2)
    roll_out(env, 30)
    state = pickle.loads(pickle.dumps(env.clone_state()))
    wanted = roll_out(env, 60, seed=9)
    other = WorldVectorEnv(ROWS, lively, dtype="float32")
    shown = other.restore_state(state)
    np.testing.assert_array_equal(shown, other.session.frames)
    for one, two in zip(wanted, roll_out(other, 60, seed=9), strict=True):
        for mine, theirs in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    # Row 1's past in row 2, with row 1's actions: the same future.
    env.restore_state(state)
    env.restore_state(env.clone_state([1]), [2])
    for given, step in zip(actions(60, seed=9), wanted, strict=True):
        moved = env.step(given[[0, 1, 1]])
        np.testing.assert_array_equal(moved[0][2], step[0][1])


@pytest.mark.parametrize("obs_type", ["rgb", "gray", "latent"])
def test_observations_are_what_they_say(lively: World, obs_type: str) -> None:
    env = WorldVectorEnv(ROWS, lively, obs_type=obs_type)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation = roll_out(env, 3)[-1][0]
    assert observation in env.observation_space
    frames = env.session.frames
    if obs_type == "rgb":
        np.testing.assert_array_equal(observation, frames)
    elif obs_type == "gray":
        single = gym.wrappers.GrayscaleObservation(WorldEnv(lively))
        np.testing.assert_array_equal(observation, [single.observation(frame) for frame in frames])
        assert np.array_equal(grey(torch.tensor([255, 255, 255], dtype=torch.uint8)), 255)
    else:
        c = lively.config.model
        assert observation.shape == (ROWS, min(4, c.rows), min(4, c.columns), c.dim)
        mean = env.session.context.float().mean(1).numpy()
        np.testing.assert_allclose(observation.mean((1, 2)), mean, atol=1e-2)


def test_tensors_are_the_same_numbers(lively: World) -> None:
    env, other = WorldVectorEnv(ROWS, lively), WorldVectorEnv(ROWS, lively, tensors=True)
    first, second = env.reset(seed=1)[0], other.reset(seed=1)[0]
    assert isinstance(second, torch.Tensor) and np.array_equal(first, second)
    for given in actions(40):
        one, two = env.step(given), other.step(torch.from_numpy(given))
        for mine, theirs in zip(one[:4], two[:4], strict=True):
            assert isinstance(theirs, torch.Tensor) and np.array_equal(mine, theirs)


BAD_ACTIONS = [
    (np.zeros(2, int), "shape"),
    (np.zeros((ROWS, 1), int), "shape"),
    (0, "shape"),
    (np.array([0, 1, 3]), "out of range"),
    (np.array([0, -1, 0]), "out of range"),
    (np.array([0.0, 1.0, np.nan]), "whole numbers"),
    (np.array([True, False, True]), "whole numbers"),
]


@pytest.mark.parametrize(("given", "word"), BAD_ACTIONS)
def test_bad_actions_are_refused_and_nothing_changes(env: WorldVectorEnv, given: Any, word: str) -> None:
    env.reset(seed=0)
    wanted = roll_out(env, 2)[-1][0]
    env.reset(seed=0)
    env.step(actions(2)[0])
    with pytest.raises(ActionError, match=word):
        env.step(given)
    np.testing.assert_array_equal(env.step(actions(2)[1])[0], wanted)


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"num_envs": 0}, "num_envs"),
    ({"num_envs": 2.0}, "num_envs"),
    ({"num_envs": True}, "num_envs"),
    ({"obs_type": "depth"}, "obs_type 'depth' is not one of rgb, gray, latent"),
    ({"autoreset_mode": "never"}, "NextStep, SameStep, Disabled"),
    ({"max_episode_steps": 0}, "max_episode_steps"),
    ({"action_repeat": 0}, "action_repeat"),
    ({"render_mode": "human"}, "render_mode"),
    ({"world": "pnog"}, "unknown world"),
]


@pytest.mark.parametrize(("settings", "word"), BAD_SETTINGS)
def test_bad_settings_are_named(lively: World, settings: dict[str, Any], word: str) -> None:
    with pytest.raises((WorldsimError, WorldError), match=word):
        WorldVectorEnv(**{"num_envs": 2, "world": lively} | settings)


BAD_RESETS: list[tuple[dict[str, Any], str]] = [
    ({"options": {"strat": 0}}, "unknown reset option 'strat'"),
    ({"options": {"start": ["episode 0"]}}, "1 starts were given for 3 rows"),
    ({"options": {"reset_mask": [True] * ROWS}}, "reset_mask must be a bool array"),
    ({"options": {"reset_mask": np.zeros(ROWS, bool)}}, "names no row"),
    ({"seed": [1, 2]}, "2 seeds were given for 3 rows"),
    ({"seed": "one"}, "seed"),
]


@pytest.mark.parametrize(("given", "word"), BAD_RESETS)
def test_bad_resets_are_refused_and_nothing_changes(env: WorldVectorEnv, given: dict[str, Any], word: str) -> None:
    env.reset(seed=0)
    before = env.clone_state()
    with pytest.raises((StartError, WorldsimError), match=word):
        env.reset(**given)
    after = env.clone_state()
    np.testing.assert_array_equal(before.session.frames, after.session.frames)
    np.testing.assert_array_equal(before.session.generators, after.session.generators)


def test_foreign_states_are_refused(env: WorldVectorEnv, make_world: Callable[..., World], lively: World) -> None:
    env.reset(seed=0)
    state = env.clone_state()
    with pytest.raises(WorldsimError, match="another world"):
        stranger = WorldVectorEnv(ROWS, make_world(seed=8), dtype="float32")
        stranger.reset(seed=0)
        stranger.restore_state(state)
    for bad in (replace(state, version=99), state.session, None):
        with pytest.raises(WorldsimError, match="not a state"):
            env.restore_state(bad)  # type: ignore[arg-type]
    with pytest.raises(WorldsimError, match="rows"):
        env.restore_state(state, [0])
    with pytest.raises(ResetNeeded):
        WorldVectorEnv(ROWS, lively, dtype="float32").restore_state(env.clone_state([0]), [0])
    env.step(actions(1)[0])


def test_calls_out_of_order_are_told(lively: World) -> None:
    env = WorldVectorEnv(ROWS, lively, render_mode="rgb_array")
    for call in (lambda: env.step(actions(1)[0]), env.render, env.clone_state):
        with pytest.raises(ResetNeeded):
            call()
    with pytest.raises(ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(seed=0)
    shown = env.render()
    assert shown is not None and len(shown) == ROWS and np.array_equal(shown, env.session.frames)
    env.close()
    for call in (lambda: env.step(actions(1)[0]), env.render, env.clone_state, env.reset):
        with pytest.raises(ClosedEnvironmentError):
            call()
