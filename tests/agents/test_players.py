"""Players by name, and the eyes of those that know a game by its state."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.agents.players import NAMED, Eyes, act_all, player_of, source_of
from worldsim.agents.scripted import SKILLS
from worldsim.envs.sources import load_source, make_source
from worldsim.errors import WorldsimError
from worldsim.model.config import ModelConfig
from worldsim.world import World, new_world

PONG = load_source("pong")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_every_named_player_plays(name: str, game: str) -> None:
    source = load_source(game)
    table = source.action_table()
    player = player_of(name, table, source)(np.random.default_rng(0))
    state = {f"{thing}_{axis}": 20.0 for thing in ("ball", "player", "opponent") for axis in "xy"}
    assert {player.act(state) for _ in range(50)} <= set(range(len(table)))


@pytest.mark.parametrize(
    ("name", "word"), [("chess", "no player is called 'chess': there are random"), ("scripted:god", "scripted:novice")]
)
def test_unknown_players_are_told(name: str, word: str) -> None:
    with pytest.raises(WorldsimError, match=word):
        player_of(name, PONG.action_table(), PONG)


def test_a_game_without_a_script_has_no_scripted_player(tiny_world: World) -> None:
    source = load_source("CartPole-v1")
    with pytest.raises(WorldsimError, match="has no scripted player"):
        player_of("scripted:expert", tiny_world.actions, source)
    with pytest.raises(WorldsimError, match=r"give where=\[real\]"):
        Eyes(source)


def test_the_better_player_of_pong_wins_more() -> None:
    pytest.importorskip("ale_py")
    table, points = PONG.action_table(), {}
    for skill in SKILLS:
        games = [make_source(PONG) for _ in range(3)]
        players = [player_of(f"scripted:{skill}", table, PONG)(np.random.default_rng(i)) for i in range(3)]
        states = [game.reset(seed=i)[1]["state"] for i, game in enumerate(games)]
        points[skill] = 0.0
        for _ in range(900):
            told = [game.step(int(action)) for game, action in zip(games, act_all(players, states), strict=True)]
            points[skill] += sum(one[1] for one in told)
            states = [one[4]["state"] for one in told]
        for game in games:
            game.close()
    assert points["novice"] < points["average"] < points["expert"]


def test_eyes_see_in_the_picture_what_the_state_says() -> None:
    pytest.importorskip("ale_py")
    game = make_source(PONG)
    eyes = Eyes(PONG)
    _, info = game.reset(seed=1)
    apart = []
    for tick in range(150):
        frame, _, _, _, info = game.step(tick // 7 % 6)
        seen, told = eyes.states(frame[None])[0], info["state"]
        apart += [abs(seen[name] - told[name]) for name in ("ball_x", "ball_y", "player_y", "opponent_y")]
    game.close()
    known = np.array(apart)[~np.isnan(apart)]
    assert len(known) > 300 and np.quantile(known, 0.95) < 1.0


def test_the_source_of_a_world_is_the_game_it_was_learned_from(tiny_world: World) -> None:
    model = ModelConfig(6, 64, 64, 8, dim=32, heads=2)
    world = new_world("my-copy", model, PONG.action_table(), source={"id": PONG.id})
    source = source_of(world)
    assert (source.name, source.height, source.width) == ("pong", 64, 64)
    assert source_of(world, "breakout").name == "breakout"
    with pytest.raises(WorldsimError, match="unknown source 'tiny'"):
        source_of(tiny_world)
