"""The player of Pong that wins, and its idea of its own paddle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worldsim.agents.pong import PongExpert, PongPaddle
from worldsim.envs.sources import Source, load_source, make_source

PONG = load_source("pong")
TABLE = PONG.action_table()
KEYS = {0: TABLE.index("NOOP"), -1: TABLE.index("UP"), 1: TABLE.index("DOWN")}


@pytest.fixture
def game() -> Iterator[Source]:
    pytest.importorskip("ale_py")
    source = make_source(PONG)
    source.reset(seed=0)
    yield source
    source.close()


@pytest.mark.parametrize("late", [0, 7])
def test_the_expert_loses_no_point_and_wins_some(game: Source, late: int) -> None:
    player, rewards = PongExpert(TABLE, PONG.height), []
    for _ in range(late):
        game.step(KEYS[0])
    _, _, _, _, info = game.step(KEYS[0])
    for _ in range(3600):
        _, reward, *_, info = game.step(player.act(info["state"]))
        rewards.append(reward)
    assert min(rewards) == 0 and sum(rewards) > 0


@pytest.mark.parametrize("target", [15.0, 27.0, 33.0, 50.0])
@pytest.mark.parametrize("ticks", [10, 25])
def test_the_paddle_is_in_time_where_it_was_told_to_be(game: Source, target: float, ticks: int) -> None:
    paddle = PongPaddle()
    _, _, _, _, info = game.step(KEYS[0])
    for wanted, left in [(31.5, 20)] * 40 + [(target, left) for left in range(ticks, 0, -1)]:
        paddle.see((info["state"]["player_y"] + 0.5) * 64 / PONG.height - 0.5)
        _, _, _, _, info = game.step(KEYS[paddle.push(wanted, left)])
    reached = (info["state"]["player_y"] + 0.5) * 64 / PONG.height - 0.5
    assert reached == pytest.approx(target, abs=1.0)
