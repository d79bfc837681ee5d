"""Handing the controls over, and taking them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.play.conftest import OpenGame
from tests.play.test_game import dream, press, watch
from worldsim.agents.policy import Policy, PolicyConfig
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.play.pilot import POLICY, PolicyPilot, ScriptedPilot, find_pilot
from worldsim.world import World, load_world

NAMES = ("STAY", "LEFT", "RIGHT")


def policy_for(
    world: World, *, obs_type: str = "gray", likes: int = 2, repeat: int = 2, fingerprint: str = ""
) -> Policy:
    """A policy that always takes the same action."""
    shape = (4, 96, 96) if obs_type == "gray" else (2, 3, 32)
    told = PolicyConfig("tiny", fingerprint or world.fingerprint, obs_type, shape, NAMES, repeat)
    policy = Policy(told)
    with torch.no_grad():
        policy.actor.weight.zero_()
        policy.actor.bias.copy_(20.0 * torch.eye(3)[likes])
    return policy


def test_m_hands_the_controls_over_and_takes_them_back(open_a_game: OpenGame, tmp_path: Path) -> None:
    size = {"height": 96, "width": 96}
    world = open_a_game(world=size).session.world
    policy_for(world).save(tmp_path / "policy.safetensors")
    game = open_a_game(world=size, policy=str(tmp_path / "policy.safetensors"))
    game.turn()
    frames = [game.frame]
    press(game, "m", "left")  # what a person holds does not count now
    frames += [game.frame, *watch(game, 2)]
    assert game.readout.pilot == "policy" and game.readout.action == 2
    press(game, "m")
    frames += [game.frame]
    assert game.readout.pilot == "" and game.readout.action == 0
    np.testing.assert_array_equal(frames, dream(game, [0, 2, 2, 2, 0]))


def test_the_pilot_goes_on_after_a_reset(open_a_game: OpenGame, tmp_path: Path) -> None:
    world = open_a_game().session.world
    policy_for(world, obs_type="latent", likes=1).save(tmp_path / "policy.safetensors")
    game = open_a_game(policy=str(tmp_path / "policy.safetensors"))
    press(game, "m")
    press(game, "r")
    game.turn()
    assert game.readout.action == 1 and game.readout.pilot == "policy"


def test_where_nobody_can_play_the_player_is_told(open_a_game: OpenGame) -> None:
    game = open_a_game(size=640)
    press(game, "p")
    game.turn()
    still = game.window.pixels()
    game.turn()
    assert (game.window.pixels() == still).all()
    press(game, "m")
    changed = (game.window.pixels() != still).any((1, 2))
    assert game.readout.pilot == "" and changed[-60:].any() and not changed[:-60].any()


def test_the_policy_in_the_worlds_folder_flies_only_with_its_world(tiny_folder: Path) -> None:
    world = load_world(tiny_folder)
    session = Session(world)
    session.reset()
    assert find_pilot(session, tiny_folder, None, 0) is None
    policy_for(world, obs_type="latent").save(tiny_folder / POLICY)
    pilot = find_pilot(session, tiny_folder, None, 0)
    assert isinstance(pilot, PolicyPilot)
    assert pilot.act(session, session.frames[0]) == 2
    other = policy_for(world, obs_type="latent", fingerprint="other")
    other.save(tiny_folder / POLICY)
    assert find_pilot(session, tiny_folder, None, 0) is None
    with pytest.raises(WorldsimError, match="was trained in another 'tiny'"):
        find_pilot(session, tiny_folder, tiny_folder / POLICY, 0)
    policy_for(world, obs_type="gray").save(tiny_folder / POLICY)
    assert find_pilot(session, tiny_folder, None, 0) is None, "of frames of 96x96, and these are smaller"


def test_an_action_is_held_as_in_training(tiny_world: World) -> None:
    session = Session(tiny_world)
    session.reset()
    pilot = PolicyPilot(policy_for(tiny_world, obs_type="latent", repeat=3), session, 0)
    asked = []
    observe = pilot._observe
    pilot._observe = lambda *given: (asked.append(1), observe(*given))[1]  # type: ignore[func-returns-value, method-assign]
    for _ in range(7):
        pilot.act(session, session.frames[0])
    assert len(asked) == 3
    pilot.begin()
    pilot.act(session, session.frames[0])
    assert len(asked) == 4


def test_without_a_policy_the_script_plays_the_world_in_the_box() -> None:
    world = load_world("pong")
    session = Session(world)
    session.reset()
    pilot = ScriptedPilot(session, 0)
    actions = set()
    for _ in range(30):
        action = pilot.act(session, session.frames[0])
        actions.add(action)
        session.step([action])
    assert actions <= set(range(len(world.actions))) and len(actions) > 1
