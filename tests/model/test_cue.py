"""What the decoder is told of the last reward: the same to a recording, to a session, and to its modulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.model.config import ModelConfig
from worldsim.model.cue import cues, since_rewards, tick_later

CONFIG = ModelConfig(num_actions=3, reward_ages=4)


def test_every_frame_knows_the_last_reward_and_how_long_ago_it_was() -> None:
    rewards = np.array([0, 0, 2.0, 0, 0, -1, 1, 0], np.float32)
    assert since_rewards(rewards).tolist() == [0, 0, 0, 1, 2, 3, -1, 1, 2]
    assert since_rewards(rewards[:0]).tolist() == [0]


def test_a_session_counts_as_a_recording_does() -> None:
    rewards = np.random.default_rng(0).choice([-1, 0, 0, 0, 1], 200)
    since, told = torch.zeros(1, dtype=torch.int64), [0]
    for reward in rewards.tolist():
        since = tick_later(since, torch.tensor([reward]))
        told.append(int(since))
    assert told == since_rewards(rewards).tolist()


def test_a_cue_is_the_action_and_a_reward_that_is_young_enough() -> None:
    since = torch.tensor([0, -1, -4, -5, 1, 4, 5])
    told = cues(torch.full_like(since, 2), since, CONFIG)
    assert (told % 3 == 2).all()
    assert (told // 3).tolist() == [0, 1, 4, 0, 5, 8, 0]
    assert CONFIG.cues == 3 * 9


def test_without_ages_a_cue_is_its_action() -> None:
    actions = torch.tensor([0, 1, 2])
    assert cues(actions, torch.tensor([1, -7, 0]), ModelConfig(num_actions=3)).tolist() == [0, 1, 2]


def test_a_negative_age_is_refused() -> None:
    with pytest.raises(ValueError, match="model.reward_ages must be at least 0, not -1"):
        ModelConfig(num_actions=3, reward_ages=-1)
    with pytest.raises(ValueError, match="model.recency corrects what model.reward_ages tells"):
        ModelConfig(num_actions=3, recency=True)
