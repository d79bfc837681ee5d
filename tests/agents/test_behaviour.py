"""How recorded play is mixed."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.actions import ActionTable
from worldsim.agents.mixture import BEHAVIOURS, Mixture, MixtureConfig
from worldsim.agents.pong import PongPlayer
from worldsim.agents.random import RandomPlayer
from worldsim.envs.sources import load_source, make_source
from worldsim.errors import WorldsimError

PONG = load_source("pong").action_table()
STATE = {"ball_x": 30.0, "ball_y": 20.0, "player_y": 40.0, "opponent_y": 20.0}


def _play(seed: int, ticks: int, script: str | None = "pong") -> np.ndarray:
    mixture = Mixture(MixtureConfig(), PONG, 30.0, script, np.random.default_rng(seed))
    return np.array([mixture.act(STATE) for _ in range(ticks)])


def _runs(values: np.ndarray) -> np.ndarray:
    return np.diff(np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]])))


def test_every_action_occurs_in_random_and_in_held_play_and_one_in_idling() -> None:
    acts = np.concatenate([_play(seed, 6000) for seed in range(8)])
    for name in ("random", "held", "idle"):
        used = set(acts[acts[:, 1] == BEHAVIOURS.index(name), 0])
        assert used == ({PONG.noop} if name == "idle" else set(range(len(PONG)))), name


def test_there_are_seconds_of_no_action_and_of_one_held_key() -> None:
    acts = np.concatenate([_play(seed, 6000) for seed in range(8)])
    for name, shortest in (("idle", 60), ("held", 30)):
        inside = acts[:, 1] == BEHAVIOURS.index(name)
        lengths = _runs(np.where(inside, acts[:, 0], -1 - np.arange(len(acts))))
        assert 0.05 < inside.mean() < 0.5, name
        assert (lengths >= shortest).sum() >= 10, name


def test_skill_changes_within_an_episode() -> None:
    kinds = _play(3, 24000)[:, 1]
    assert 24000 / len(_runs(kinds)) < 30 * 30.0  # at least twice a minute, even in a sharp episode
    assert {BEHAVIOURS.index("scripted"), BEHAVIOURS.index("clumsy")} <= set(kinds)


def test_a_game_without_a_script_is_played_without_one() -> None:
    kinds = set(_play(0, 6000, script=None)[:, 1])
    assert BEHAVIOURS.index("scripted") not in kinds and BEHAVIOURS.index("random") in kinds


def test_the_same_seed_plays_the_same() -> None:
    np.testing.assert_array_equal(_play(5, 2000), _play(5, 2000))
    assert (_play(5, 2000) != _play(6, 2000)).any()


def test_random_actions_are_held_for_a_random_while() -> None:
    player = RandomPlayer(6, np.random.default_rng(0), longest=8)
    lengths = _runs(np.array([player.act({}) for _ in range(4000)]))
    assert 3 < lengths.mean() < 7 and lengths.min() == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_epsilon_is_the_share_of_random_actions(share: float) -> None:
    """Of an actionless script's ticks, five random actions in six show."""
    config = MixtureConfig(idle=0, held=0, random=0, epsilon=(share, share), opening=0)
    state = {name: float("nan") for name in STATE}
    acts = []
    for seed in range(20):
        mixture = Mixture(config, ActionTable.numbered(PONG.names), 30.0, "pong", np.random.default_rng(seed))
        mixture._script = lambda actions, rng, pixels, skill: RandomPlayer(1, rng)  # always action 0
        acts += [mixture.act(state)[0] for _ in range(3000)]
    assert np.mean(np.array(acts) != 0) == pytest.approx(share * 5 / 6, rel=0.12)


def test_random_actions_within_scripted_play_are_not_called_scripted() -> None:
    """A player that always does one thing: whatever else is done is random."""
    config = MixtureConfig(idle=0, held=0, random=0, epsilon=(0.2, 0.2), opening=0)
    mixture = Mixture(config, PONG, 30.0, "pong", np.random.default_rng(0))
    mixture._script = lambda actions, rng, pixels, skill: RandomPlayer(1, rng)
    acts = np.array([mixture.act({}) for _ in range(6000)])
    scripted = acts[:, 1] == BEHAVIOURS.index("scripted")
    assert (acts[scripted, 0] == 0).all() and (acts[~scripted, 1] == BEHAVIOURS.index("random")).all()
    assert (~scripted).mean() == pytest.approx(0.2, rel=0.15)


def test_the_pong_player_returns_balls_that_an_idle_one_misses() -> None:
    pytest.importorskip("ale_py")
    source = make_source(load_source("pong"))
    lost = {}
    for name in ("scripted", "idle"):
        rng = np.random.default_rng(11)
        _, info = source.reset(seed=0)
        player = PongPlayer(PONG, rng, source.config.height)
        lost[name] = 0
        for tick in range(900):
            if tick % 150 == 0:
                player = PongPlayer(PONG, rng, source.config.height)
            _, reward, *_, info = source.step(player.act(info["state"]) if name == "scripted" else 0)
            lost[name] += reward < 0
    source.close()
    assert lost["scripted"] * 2 < lost["idle"]


@pytest.mark.parametrize(
    "fields",
    [
        {"idle": -0.1},
        {"idle": 0.9},
        {"idle_seconds": (0.0, 1.0)},
        {"held_seconds": (3.0, 1.0)},
        {"epsilon": (0.1, 1.5)},
        {"steady": 1.1},
        {"sharp": 0.6},
        {"longest_random": 0},
        {"opening": -1},
        {"skill": "god"},
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(WorldsimError, match="behaviour"):
        MixtureConfig(**fields)  # type: ignore[arg-type]


def test_an_unknown_script_lists_those_there_are() -> None:
    with pytest.raises(WorldsimError, match="no scripted player 'chess': there are .*pong"):
        Mixture(MixtureConfig(), PONG, 30.0, "chess", np.random.default_rng(0))
