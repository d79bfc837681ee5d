"""The two networks that judge: taught once, kept, and made of real play alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldsim.data.episodes import Dataset
from worldsim.evaluation.inverse import FRAMES, InverseDynamics, accuracy, effects
from worldsim.evaluation.learning import Lesson, taught, training_windows
from worldsim.evaluation.probe import StateProbe
from worldsim.evaluation.subject import Subject
from worldsim.settings import home

LESSON = Lesson(samples=60, episodes=2, steps=3)


def make() -> nn.Linear:
    return nn.Linear(2, 1)


def loss(net: nn.Linear, rows: Tensor) -> Tensor:
    answer: Tensor = net(torch.stack((rows, rows + 1), -1).float()).square().mean()
    return answer


def shelf() -> list[Path]:
    return sorted((home() / "probes").rglob("*.safetensors"))


def test_a_network_is_taught_once_and_then_kept(pong_data: Dataset) -> None:
    first = taught(make, loss, lambda _: 9, LESSON, pong_data, "toy", {})
    assert len(shelf()) == 1

    def not_again(_: nn.Linear) -> int:
        raise AssertionError("it is on the shelf")

    again = taught(make, loss, not_again, LESSON, pong_data, "toy", {})
    torch.testing.assert_close(again.weight, first.weight, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="shelf"):
        taught(make, loss, not_again, LESSON, pong_data, "toy", {"other": True})


def test_teaching_is_repeatable_and_a_broken_file_is_made_anew(pong_data: Dataset) -> None:
    first = taught(make, loss, lambda _: 9, LESSON, pong_data, "toy", {})
    shelf()[0].write_bytes(b"truncated")
    before = torch.random.get_rng_state()
    again = taught(make, loss, lambda _: 9, LESSON, pong_data, "toy", {})
    torch.testing.assert_close(again.weight, first.weight, rtol=0, atol=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_windows_come_from_training_episodes_with_the_action_before_their_last_frame(pong_data: Dataset) -> None:
    windows = training_windows(pong_data, FRAMES, LESSON)
    info = pong_data.train[0]
    everything = {}
    for info in pong_data.train:
        episode = pong_data.load(info)
        for last in range(FRAMES - 1, len(episode) + 1):
            key = episode.frames[last + 1 - FRAMES : last + 1].tobytes()
            everything.setdefault(key, set()).add(int(episode.actions[last - 1]))
    assert all(int(a) in everything[f.tobytes()] for f, a in zip(windows.frames, windows.actions, strict=True))


def test_the_probe_learns_where_the_paddles_are(pong_data: Dataset) -> None:
    probe = StateProbe(pong_data, Lesson(samples=800, episodes=4, steps=150))
    assert probe.objects == ("ball", "player", "opponent") and not probe.counts
    episode = pong_data.load(pong_data.train[0])
    seen = probe.read(episode.frames[::5])["player"]
    assert seen.present.mean() > 0.95
    assert np.median(np.abs(seen.y - episode.state["player_y"][::5])) < 4
    assert probe.features(episode.frames[:7]).shape == (7, 64)


def test_actions_that_look_alike_in_the_real_game_are_one_kind(subject: Subject) -> None:
    kinds = subject.effects
    assert kinds.names == ("NOOP/FIRE", "UP/UPFIRE", "DOWN/DOWNFIRE")
    assert kinds.of == (0, 0, 1, 2, 1, 2) and kinds.first == (0, 2, 3)


def test_actions_that_never_show_the_same_are_kinds_of_their_own() -> None:
    branches = np.zeros((2, 3, 2, 4, 4, 3), np.uint8)
    branches[1, :, 1] = 9
    assert effects(branches, ["A", "B"]).names == ("A", "B")
    assert effects(branches[:1], ["A", "B"]).names == ("A/B",)


def test_inverse_dynamics_answers_for_every_tick_of_a_roll_out(subject: Subject, pong_data: Dataset) -> None:
    judge = InverseDynamics(pong_data, subject.effects, LESSON)
    frames = np.zeros((FRAMES - 1 + 5, 2, 80, 80, 3), np.uint8)
    assert judge.read(frames).shape == (5, 2)
    assert judge.classes(np.array([1, 4])).tolist() == [0, 1]


def test_accuracy_by_class() -> None:
    found = accuracy(np.array([0, 1, 1]), np.array([0, 0, 1]), ["A", "B"])
    assert found == {"overall": 2 / 3, "by_class": {"A": 0.5, "B": 1.0}}
