"""What is asked of tokens about the last reward, and that the encoder learns from it."""

from __future__ import annotations

import torch

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.model.config import ModelConfig
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.batches import make_batch
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective
from worldsim.training.recall import Recall

TINY = ModelConfig(6, 80, 80, 16, dim=64, heads=2, encoder_layers=2, decoder_layers=1, decoder_width=8, window=4)


def test_a_reward_is_asked_for_until_it_is_older_than_the_window() -> None:
    rewards = torch.tensor([[1, 2, 1, 1, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 2]])
    asked = [[0, 5, 6, 7, 8, 0, 1, 2, 1], [0, 0, 0, 0, 0, 0, 0, 0, 5]]
    assert Recall(TINY).ages(rewards).tolist() == asked


def test_tokens_that_hold_the_code_are_right_and_others_are_not() -> None:
    recall = Recall(TINY)
    rewards = torch.tensor([[1, 0, 1, 2, 1]])
    told = 40 * recall.code[recall.ages(rewards)]
    assert recall(told[:, :, None].expand(-1, -1, 3, -1), rewards) < 0.01
    assert recall(told.roll(1, 1)[:, :, None].expand(-1, -1, 3, -1), rewards) > 1


def test_the_encoder_learns_from_it_and_nothing_is_added_to_a_world(pong_data: Dataset) -> None:
    store = ClipStore(pong_data, pong_data.train, 8)
    batch = make_batch(store, TINY, LossConfig(), 0, 0, range(2))
    batch.rewards[:, 2] = 0
    grown = {}
    for weight in (0.0, 1.0):
        model = init_weights(WorldModel(TINY), 0)
        objective = Objective(model, LossConfig(recall=weight, outcome_weight=0.0), torch.float32, False)
        loss, parts = objective.loss(batch, objective.show(batch))
        loss.backward()
        assert ("recall" in parts) == bool(weight)
        if weight:
            torch.testing.assert_close(loss.detach(), parts["denoise"] + parts["recall"])
        slope = dict(model.named_parameters())["encoder.blocks.1.time.age_bias"].grad
        assert slope is not None
        grown[weight] = float(slope.abs().sum())
        assert not any(name.endswith(".code") for name in model.state_dict())
    assert grown[1.0] > 100 * grown[0.0]
