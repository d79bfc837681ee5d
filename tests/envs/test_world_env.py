"""A world behind Gymnasium's interface."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from worldsim.envs import MAX_EPISODE_STEPS
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import ActionError, BackendError, StartError, WorldError, WorldsimError
from worldsim.world import World, save_world

GENERIC = "worldsim:WorldSim/World-v0"


def roll_out(env: Any, steps: int, seed: int = 0) -> list[Any]:
    """Everything that `steps` seeded random actions return."""
    random = np.random.default_rng(seed)
    return [env.step(random.integers(env.action_space.n)) for _ in range(steps)]


def frames(steps: list[Any]) -> NDArray[np.uint8]:
    return np.stack([step[0] for step in steps])


@pytest.fixture
def env(tiny_world: World) -> WorldEnv:
    return WorldEnv(tiny_world, render_mode="rgb_array")


@pytest.mark.parametrize("mode", ["rgb_array", None])
def test_gymnasiums_own_check_finds_nothing_to_complain_of(tiny_folder: Path, mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(GENERIC, world=str(tiny_folder), render_mode=mode)
        check_env(env.unwrapped)
        env.close()
        env.close()


@pytest.mark.parametrize("world", MAX_EPISODE_STEPS)
def test_worlds_in_the_box_are_checked_too(world: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(f"worldsim:WorldSim/{world.title()}-v0", render_mode="rgb_array")
        check_env(env.unwrapped)
    assert env.spec is not None and env.spec.max_episode_steps == env.unwrapped.world.config.max_episode_steps


def test_a_line_of_code_makes_the_environment_and_torch_waits_until_then(tiny_folder: Path) -> None:
    code = (
        "import sys, worldsim, gymnasium\n"
        "assert 'WorldSim/Pong-v0' in gymnasium.registry and 'torch' not in sys.modules\n"
        f"print(gymnasium.make({GENERIC!r}, world={str(tiny_folder)!r}).reset(seed=1)[0].shape)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "(16, 24, 3)\n", done.stderr


def test_spaces_and_rate_are_the_worlds(make_world: Callable[..., World]) -> None:
    env = WorldEnv(make_world(settings={"fps": 25.0}), action_repeat=5)
    assert env.observation_space == gym.spaces.Box(0, 255, (16, 24, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(3)
    assert env.metadata["render_fps"] == 5.0 and WorldEnv.metadata["render_fps"] == 30


def test_the_same_seed_and_actions_give_the_same_bytes_in_every_environment(tiny_world: World) -> None:
    rolls = []
    for _ in range(2):
        env = WorldEnv(tiny_world)
        first, info = env.reset(seed=3)
        rolls.append((first.tobytes(), info, [(o.tobytes(), *rest) for o, *rest in roll_out(env, 12)]))
        again, _ = env.reset()  # the next episode is seeded by the first
        rolls[-1] += (again.tobytes(), frames(roll_out(env, 3)).tobytes())
    assert rolls[0] == rolls[1]
    env.reset(seed=4)
    assert [step[0].tobytes() for step in roll_out(env, 12)] != [step[0] for step in rolls[0][2]]


def test_without_a_seed_no_two_environments_agree(tiny_world: World) -> None:
    rolls = []
    for _ in range(2):
        env = WorldEnv(tiny_world)
        env.reset()
        rolls.append(frames(roll_out(env, 5)))
    assert (rolls[0] != rolls[1]).any()


def test_environments_share_the_weights_of_a_folder(tiny_folder: Path) -> None:
    one, two = WorldEnv(tiny_folder), WorldEnv(str(tiny_folder))
    assert one.session.model is two.session.model
    one.close()
    two.reset(seed=0)
    two.step(0)


def test_an_episode_starts_where_it_is_told_to(env: WorldEnv) -> None:
    starts = env.world.starts
    for start in (2, "clip 0", (starts[2].frames, starts[2].actions)):
        frame, info = env.reset(seed=1, options={"start": start})
        np.testing.assert_array_equal(frame, starts[2].frames[-1])
        assert info["tick"] == 0 and info["score"] == (0, 0)
    for options in (None, {}, {"start": "episode"}):
        frame, _ = env.reset(options=options)
        assert any((frame == start.frames[-1]).all() for start in starts[:2])


def test_given_frames_go_on_as_the_worlds_own_do(env: WorldEnv) -> None:
    start = env.world.starts[0]
    env.reset(seed=1, options={"start": 0})
    one = frames(roll_out(env, 6))
    env.reset(seed=1, options={"start": (start.frames, start.actions)})
    np.testing.assert_array_equal(one, frames(roll_out(env, 6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "nowhere"}, "unknown start 'nowhere'.*'episode', episode 0, episode 1, clip 0"),
        ({"strat": 0}, "unknown reset option 'strat'"),
        ({"start": (np.zeros((2, 64, 64, 3), np.uint8), [0])}, "64x64, this world has 16x24"),
    ],
)
def test_a_bad_start_is_refused_and_the_episode_goes_on(env: WorldEnv, options: Any, message: str) -> None:
    env.reset(seed=1)
    expected = env.clone_state()
    with pytest.raises(StartError, match=message):
        env.reset(options=options)
    one = frames(roll_out(env, 3))
    env.restore_state(expected)
    np.testing.assert_array_equal(one, frames(roll_out(env, 3)))


@pytest.mark.parametrize("action", [3, -1, 0.0, 1.5, True, np.bool_(True), "up", None, [0], np.zeros(1, int)])
def test_a_bad_action_is_refused_in_one_line_and_the_episode_goes_on(env: WorldEnv, action: Any) -> None:
    env.reset(seed=1)
    state = env.clone_state()
    with pytest.raises(ActionError) as error:
        env.step(action)
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    one = frames(roll_out(env, 3))
    env.restore_state(state)
    np.testing.assert_array_equal(one, frames(roll_out(env, 3)))


@pytest.mark.parametrize("action", [0, np.int64(1), np.uint8(2), np.array(1)])
def test_any_whole_number_is_an_action(env: WorldEnv, action: Any) -> None:
    env.reset(seed=1)
    observation, reward, terminated, truncated, _ = env.step(action)
    assert observation in env.observation_space
    assert type(reward) is float and type(terminated) is bool and type(truncated) is bool


def test_info_tells_what_the_frame_took_by_stage_and_still_compares_equal(env: WorldEnv) -> None:
    env.reset(seed=1)
    infos = [step[-1] for step in roll_out(env, 2)]
    for info in infos:
        latency = info["latency"]
        assert list(latency.stages) == ["decode", "to_uint8", "encode", "outcome"]
        assert all(took > 0 for took in latency.stages.values())
        assert latency.response_ms == latency.stages["decode"] + latency.stages["to_uint8"]
    assert infos[0]["latency"] == infos[1]["latency"] and infos[0]["tick"] == 1
    assert pickle.loads(pickle.dumps(infos)) == infos


def test_keys_are_those_of_the_action_table(env: WorldEnv) -> None:
    left, right = 1073741904, 1073741903
    assert env.get_keys_to_action() == {(left,): 1, (ord("a"),): 1, (right,): 2, (ord("d"),): 2}


def test_render_gives_the_frame_that_step_returned_as_a_copy(env: WorldEnv) -> None:
    frame, _ = env.reset(seed=1)
    np.testing.assert_array_equal(env.render(), frame)
    frame = env.step(1)[0]
    shown = env.render()
    np.testing.assert_array_equal(shown, frame)
    shown[:] = 0
    np.testing.assert_array_equal(env.render(), frame)


def test_points_end_the_episode_at_the_score_limit(make_world: Callable[..., World]) -> None:
    env = WorldEnv(make_world(reward=-1, settings={"score_limit": 3}))
    env.reset(seed=1)
    steps = [env.step(0)[1:4] for _ in range(3)]
    assert steps == [(-1.0, False, False), (-1.0, False, False), (-1.0, True, False)]
    with pytest.raises(ResetNeeded, match="the episode is over"):
        env.step(0)
    env.reset()
    assert env.step(0)[-1]["score"] == (0, 1)


def test_the_last_life_ends_the_episode_and_info_tells_how_many_are_left(make_world: Callable[..., World]) -> None:
    world = make_world(end=True, settings={"lives": 1})
    env, rows = WorldEnv(world), WorldVectorEnv(2, world)
    assert env.reset(seed=1)[1]["lives"] == 1 and rows.reset(seed=1)[1]["lives"].tolist() == [1, 1]
    _, _, terminated, _, info = env.step(0)
    assert terminated and info["lives"] == 0
    _, _, terminations, _, infos = rows.step(np.array([0, 0]))
    assert terminations.all() and infos["lives"].tolist() == [0, 0]


def test_an_action_is_held_for_its_ticks_or_until_the_end(make_world: Callable[..., World]) -> None:
    world = make_world(reward=1, settings={"score_limit": 5})
    env, single = WorldEnv(world, action_repeat=3), WorldEnv(world)
    env.reset(seed=1)
    single.reset(seed=1)
    for action, ticks in ((2, 3), (1, 2)):
        frame, reward, terminated, _, info = env.step(action)
        alone = [single.step(action) for _ in range(ticks)]
        np.testing.assert_array_equal(frame, alone[-1][0])
        assert reward == sum(step[1] for step in alone) == ticks
        assert terminated == alone[-1][2] and info["tick"] == alone[-1][-1]["tick"]
    assert terminated


@pytest.mark.parametrize("repeat", [1, 2])
def test_an_episode_is_cut_off_after_the_worlds_longest(make_world: Callable[..., World], repeat: int) -> None:
    world = make_world(settings={"max_episode_steps": 6})
    env = WorldEnv(world, action_repeat=repeat)
    env.reset(seed=1)
    ends = [env.step(0)[2:4] for _ in range(6 // repeat)]
    assert ends == [(False, False)] * (6 // repeat - 1) + [(False, True)]
    with pytest.raises(ResetNeeded):
        env.step(0)
    endless = WorldEnv(world, max_ticks=0)
    endless.reset(seed=1)
    assert not any(endless.step(0)[3] for _ in range(9))


def test_calls_out_of_order_are_gymnasiums_errors(tiny_world: World) -> None:
    env = WorldEnv(tiny_world, render_mode="rgb_array")
    for call in (lambda: env.step(0), env.render, env.clone_state):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    env.reset(seed=1)
    env.close()
    env.close()
    for call in (lambda: env.step(0), env.reset, env.render, env.clone_state):
        with pytest.raises(ClosedEnvironmentError):
            call()


def test_a_clone_continues_bit_for_bit_pickled_and_elsewhere(tiny_world: World, env: WorldEnv) -> None:
    env.reset(seed=1)
    roll_out(env, 7)
    state = pickle.loads(pickle.dumps(env.clone_state()))
    shown = env.render()
    other = WorldEnv(tiny_world)
    endings = []
    for one in (env, env, other):
        np.testing.assert_array_equal(one.restore_state(state), shown)
        steps = roll_out(one, 6)
        endings.append((frames(steps).tobytes(), [step[1:] for step in steps], one.reset()[0].tobytes()))
    assert endings[0] == endings[1] == endings[2]


def test_a_clone_of_an_ended_episode_is_still_ended(make_world: Callable[..., World]) -> None:
    env = WorldEnv(make_world(end=True))
    env.reset(seed=1)
    before = env.clone_state()
    assert env.step(0)[2]
    after = env.clone_state()
    env.restore_state(before)
    env.step(0)
    env.restore_state(after)
    with pytest.raises(ResetNeeded):
        env.step(0)


def test_a_state_that_does_not_belong_is_refused_and_the_episode_goes_on(
    make_world: Callable[..., World], env: WorldEnv
) -> None:
    env.reset(seed=1)
    state = env.clone_state()
    stranger = WorldEnv(make_world(seed=1))
    stranger.reset(seed=1)
    for bad in (stranger.clone_state(), replace(state, version=0), state.session, None):
        with pytest.raises(WorldsimError, match="another world|not a state"):
            env.restore_state(bad)  # type: ignore[arg-type]
    one = frames(roll_out(env, 3))
    env.restore_state(state)
    np.testing.assert_array_equal(one, frames(roll_out(env, 3)))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"world": "nowhere"}, WorldError),
        ({"steps": 65}, WorldsimError),
        ({"action_repeat": 0}, WorldsimError),
        ({"action_repeat": 1.5}, WorldsimError),
        ({"max_ticks": -1}, WorldsimError),
        ({"render_mode": "ansi"}, WorldsimError),
        ({"device": "toaster"}, BackendError),
        ({"dtype": "int8"}, BackendError),
    ],
)
def test_an_environment_that_cannot_be_is_refused_in_one_line(
    tiny_world: World, settings: Any, error: type[WorldsimError]
) -> None:
    with pytest.raises(error) as raised:
        WorldEnv(**{"world": tiny_world} | settings)
    assert "\n" not in str(raised.value)


def test_a_time_limit_of_ones_own_comes_from_gymnasium(tiny_world: World, tmp_path: Path) -> None:
    env = gym.make(GENERIC, world=save_world(tiny_world, tmp_path / "w"), max_episode_steps=4)
    env.reset(seed=1)
    assert [env.step(0)[3] for _ in range(4)] == [False, False, False, True]
