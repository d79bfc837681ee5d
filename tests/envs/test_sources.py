"""The real games: frames, actions, time and state, checked against the games themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim.envs.source_state import Geometry
from worldsim.envs.sources import Source, load_source, make_source
from worldsim.errors import ActionError, MissingExtra, SourceError, WorldsimError

BACKGROUND = np.array([144, 72, 17], np.int16)
UP, DOWN = 2, 3


@pytest.fixture
def pong() -> Iterator[Source]:
    pytest.importorskip("ale_py")
    source = make_source(load_source("pong"))
    yield source
    source.close()


def test_pong_is_a_gymnasium_environment() -> None:
    pytest.importorskip("ale_py")
    # Without its state: the checker compares infos with ==, and an absent ball is NaN.
    check_env(make_source(load_source("pong", state=None)), skip_render_check=True)


def test_pong_has_ales_actions_in_ales_order(pong: Source) -> None:
    meanings = pong._env.unwrapped.get_action_meanings()
    assert [name.replace("RIGHT", "UP").replace("LEFT", "DOWN") for name in meanings] == list(pong.actions.names)


def test_a_frame_is_the_last_raw_frame_cropped_and_averaged(pong: Source) -> None:
    raw = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    frame, _ = pong.reset(seed=3)
    raw.reset(seed=3)
    for _ in range(pong.config.warm_up):
        screen, *_ = raw.step(0)
    rng = np.random.default_rng(0)
    for _ in range(120):
        np.testing.assert_array_equal(frame, cv2.resize(screen[34:194], (80, 80), interpolation=cv2.INTER_AREA))
        action = int(rng.integers(6))
        frame, reward, *_ = pong.step(action)
        total = 0.0
        for _ in range(2):
            screen, gain, *_ = raw.step(action)
            total += float(gain)
        assert reward == total
    raw.close()


def test_a_maximum_over_two_raw_frames_can_be_asked_for() -> None:
    pytest.importorskip("ale_py")
    last, both = (make_source(load_source("pong", max_over=n)) for n in (1, 2))
    differ = False
    for source in (last, both):
        source.reset(seed=0)
    for _ in range(60):
        one, two = last.step(DOWN)[0], both.step(DOWN)[0]
        differ = differ or bool((one != two).any())
        assert two.astype(int).sum() >= one.astype(int).sum() - 80 * 80 * 3  # a maximum only brightens, but rounds
    assert differ


def test_an_action_shows_in_the_frame_that_follows_it(pong: Source) -> None:
    pong.reset(seed=0)
    for _ in range(60):
        pong.step(0)
    here = pong.clone_state()
    after = {action: pong.step(action)[4]["state"]["player_y"] for action in (0,)}
    for action in (UP, DOWN):
        pong.restore_state(here)
        after[action] = [pong.step(action)[4]["state"]["player_y"] for _ in range(3)][-1]
    assert after[UP] < after[0] < after[DOWN]


def test_state_is_where_the_pixels_are(pong: Source) -> None:
    """Ball and paddles, found as brightness-weighted means over pixel indices, against the state from RAM."""
    rng = np.random.default_rng(1)
    frame, info = pong.reset(seed=1)
    seen = 0
    for tick in range(1500):
        state = info["state"]
        off = np.abs(frame.astype(np.int16) - BACKGROUND).sum(-1).astype(float)

        def centre(left: int, right: int, off: np.ndarray = off) -> tuple[float, float]:
            part = off[:, left:right]
            if part.sum() < 60:
                return np.nan, np.nan
            x = (part.sum(0) * np.arange(left, right)).sum() / part.sum()
            return x, (part.sum(1) * np.arange(80)).sum() / part.sum()

        ball = state["ball_x"]
        if not 5 < ball < 14:
            np.testing.assert_allclose(centre(8, 11)[1], state["opponent_y"], atol=0.5)
        if not 66 < ball < 76:
            np.testing.assert_allclose(centre(69, 73)[1], state["player_y"], atol=0.5)
        if not (ball <= 12 or ball >= 67):  # also when absent
            np.testing.assert_allclose(centre(11, 69), (ball, state["ball_y"]), atol=0.5)
            seen += not np.isnan(ball)
        if tick % 8 == 0:
            up = state["ball_y"] < state["player_y"] if rng.random() < 0.7 else rng.random() < 0.5
            action = UP if up else DOWN
        frame, _, terminated, truncated, info = pong.step(action)
        if terminated or truncated:
            break
    assert seen > 500


def test_points_are_in_the_state_and_the_game_ends_at_21(pong: Source) -> None:
    _, info = pong.reset(seed=0)
    before, lost, terminated = info["state"], 0, False
    while not terminated:
        _, reward, terminated, truncated, info = pong.step(0)
        assert not truncated
        assert info["state"]["opponent_score"] - before["opponent_score"] == (reward < 0)
        before, lost = info["state"], lost + (reward < 0)
    assert lost == 21
    assert info["state"]["opponent_score"] == 21


def test_a_score_limit_ends_an_episode_earlier() -> None:
    pytest.importorskip("ale_py")
    source = make_source(load_source("pong", score_limit=1))
    source.reset(seed=0)
    ends = [source.step(0)[2] for _ in range(140)]
    assert True in ends and not any(ends[: ends.index(True)])


def test_a_state_continues_bit_for_bit(pong: Source) -> None:
    pong.reset(seed=2)
    for _ in range(100):
        pong.step(DOWN)
    here = pong.clone_state()
    first = [pong.step(action % 6) for action in range(80)]
    np.testing.assert_array_equal(pong.restore_state(here), here.frame)
    for action, (frame, reward, *_, info) in enumerate(first):
        again = pong.step(action % 6)
        np.testing.assert_array_equal(frame, again[0])
        assert reward == again[1]
        assert str(info) == str(again[4])  # NaN equals itself as text


def test_the_same_seed_is_the_same_game(pong: Source) -> None:
    def play() -> list[bytes]:
        frame, _ = pong.reset(seed=7)
        return [frame.tobytes()] + [pong.step(action % 6)[0].tobytes() for action in range(90)]

    assert play() == play()


def test_a_game_whose_observations_are_not_pictures_is_rendered() -> None:
    pytest.importorskip("pygame")
    source = make_source(load_source("CartPole-v1"))
    frame, info = source.reset(seed=0)
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and frame.std() > 1
    assert source.actions.names == ("ACTION_0", "ACTION_1")
    assert source.config.fps == 50.0
    assert info["state"] == {}
    moved = [source.step(1)[0] for _ in range(8)][-1]
    assert (moved != frame).any()
    source.close()


def test_a_game_without_states_is_replayed_to_come_back() -> None:
    pytest.importorskip("pygame")
    source = make_source(load_source("CartPole-v1"))
    source.reset()
    for action in (0, 1, 1):
        source.step(action)
    here = source.clone_state()
    ahead = [source.step(0)[0].tobytes() for _ in range(5)]
    source.restore_state(here)
    assert [source.step(0)[0].tobytes() for _ in range(5)] == ahead
    source.close()


def test_an_episode_is_cut_at_the_sources_limit() -> None:
    pytest.importorskip("ale_py")
    source = make_source(load_source("pong", max_episode_steps=5))
    source.reset(seed=0)
    assert [source.step(0)[2:4] for _ in range(5)] == [(False, False)] * 4 + [(False, True)]


@pytest.mark.parametrize("action", [6, -1, 1.0, "UP", None, [1], np.array([1])])
def test_a_bad_action_is_refused(pong: Source, action: object) -> None:
    pong.reset(seed=0)
    with pytest.raises(ActionError):
        pong.step(action)


@pytest.mark.parametrize("action", [1, np.int64(1), np.array(1), np.uint8(1)])
def test_whole_numbers_of_any_kind_are_actions(pong: Source, action: object) -> None:
    pong.reset(seed=0)
    pong.step(action)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("pongg", {}, "unknown source 'pongg': use one of .*pong"),
        ("", {}, "unknown source ''"),
        ("pong", {"frame_skip": 0}, "frame_skip must be at least 1"),
        ("pong", {"max_over": 3}, "max_over 3 exceeds frame_skip 2"),
        ("pong", {"state": "chess"}, "no state reader 'chess'"),
        ("pong", {"colour": 1}, "colour"),
    ],
)
def test_a_bad_source_is_refused_in_one_line(name: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(WorldsimError, match=message) as caught:
        load_source(name, **overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("NoSuchGame-v0", {}, "NoSuchGame"),
        ("CartPole-v77", {}, "CartPole"),
        ("Pendulum-v1", {}, "needs Discrete"),
        ("CartPole-v1", {"kwargs": {}}, "render"),
        ("CartPole-v1", {"kwargs": {"render_mode": "rgb_array", "wings": 2}}, "wings"),
        ("CartPole-v1", {"crop": [0, 10, 0, 9999]}, "outside the 400x600 screen"),
        ("CartPole-v1", {"actions": [{"name": "LEFT"}]}, "names 1 actions"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*without specifying any render mode")
def test_a_source_that_cannot_be_made_says_why(name: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        make_source(load_source(name, **overrides)).reset(seed=0)
    assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(MissingExtra, match=r"pip install 'worldsim\[atari\]'"):
        make_source(load_source("pong"))


def test_positions_are_pixel_indices_of_the_visible_part() -> None:
    geometry = Geometry((34, 194, 0, 160), 64, 64)
    assert geometry.x(0, 2.5) == 0.0  # exactly the first pixel
    assert geometry.y(20, 39) == pytest.approx(0.5)  # its upper part is cut off
    assert np.isnan(geometry.y(0, 34))


def test_breakouts_state_is_where_the_pixels_are() -> None:
    pytest.importorskip("ale_py")
    source = make_source(load_source("breakout"))
    frame, info = source.reset(seed=0)
    seen = 0
    for _ in range(600):
        state = info["state"]
        bright = frame.astype(float).sum(-1)
        if not state["ball_y"] > 75:  # also when absent
            paddle = bright[78:80, 4:76].sum(0)
            assert (paddle * np.arange(4, 76)).sum() / paddle.sum() == pytest.approx(state["player_x"], abs=0.6)
        if 32 < state["ball_y"] < 75 and 5 < state["ball_x"] < 74:
            ball = bright[31:77, 4:76]
            x = (ball.sum(0) * np.arange(4, 76)).sum() / ball.sum()
            y = (ball.sum(1) * np.arange(31, 77)).sum() / ball.sum()
            assert (x, y) == pytest.approx((state["ball_x"], state["ball_y"]), abs=0.5)
            seen += 1
        gap = state["ball_x"] - state["player_x"]
        frame, *_, info = source.step(1 if np.isnan(gap) else 0 if abs(gap) < 1 else 2 if gap > 0 else 3)
    assert seen > 100
    source.close()


def test_breakout_tells_where_a_life_is_lost_and_a_state_holds_how_many_are_left() -> None:
    pytest.importorskip("ale_py")
    source = make_source(load_source("breakout"))
    source.reset(seed=0)
    lost, saved = [], None
    for tick in range(3000):  # the paddle is never moved
        *_, terminated, _, info = source.step(1)
        lost += [tick] * info["life_lost"]
        if len(lost) == 2 and saved is None:
            saved = source.clone_state(), tick
        if terminated:
            break
    assert len(lost) == source.config.lives == 5 and lost[-1] == tick and terminated
    assert saved is not None
    source.restore_state(saved[0])
    again = [saved[1] + 1 + i for i in range(tick - saved[1]) if source.step(1)[4]["life_lost"]]
    assert again == lost[2:]
    source.close()


def test_a_game_without_lives_is_refused_when_some_are_asked_for() -> None:
    source = make_source(load_source("CartPole-v1", lives=3))
    with pytest.raises(SourceError, match="tells no lives"):
        source.reset(seed=0)


@pytest.mark.parametrize(("name", "package"), [("carracing", "Box2D"), ("doom", "vizdoom")])
def test_the_other_games_run_where_they_are_installed(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves a settings file where it runs
    source = make_source(load_source(name))
    frame, info = source.reset(seed=0)
    assert frame.shape == (64, 64, 3) and frame.std() > 1
    moved = [source.step(action)[0] for action in range(len(source.actions)) for _ in range(1 + action)][-1]
    assert (moved != frame).any()
    assert set(info["state"]) == set(source.step(0)[4]["state"])
    source.close()
