"""The actions that led to a frame: told one by one, for a whole clip, and by the encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldsim.model.config import ModelConfig
from worldsim.model.trail import after, no_trail, told, trails
from worldsim.model.world_model import WorldModel, init_weights

SHAPE = ModelConfig(
    3, 16, 16, 8, history=2, extrapolated=0, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8
)


@pytest.mark.parametrize("past", [1, 2, 4])
def test_a_trail_tells_the_last_actions_and_none_before_the_first(past: int) -> None:
    shape = replace(SHAPE, past_actions=past)
    actions = torch.randint(3, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = trails(actions, shape)
    assert whole.shape == (2, 10) and bool((whole[:, 0] == no_trail(shape)).all())
    one = whole[:, 0]
    for t in range(10):
        if t:
            one = after(one, actions[:, t - 1], shape)
        assert torch.equal(one, whole[:, t])
        for age, action in enumerate(told(one, shape)):
            expected = actions[:, t - 1 - age] if t - 1 - age >= 0 else torch.full((2,), 3)
            assert torch.equal(action, expected)
    assert len(told(one, shape)) == past
    if past == 1:
        assert torch.equal(whole[:, 1:], actions) and no_trail(shape) == 3
    assert trails(actions[:, :0], shape).tolist() == [[no_trail(shape)]] * 2


def test_contexts_tell_of_each_action_of_a_trail_once_it_is_learned() -> None:
    shape = replace(SHAPE, past_actions=3)
    model = init_weights(WorldModel(shape), 0).eval()
    actions = torch.zeros(4, 3, dtype=torch.int64)
    actions[[1, 2, 3], [2, 1, 0]] = 2  # none differs, then the newest, the one before, the oldest
    led = trails(actions, shape)[:, -1]
    with torch.no_grad():
        fresh = model.encoder.blind(led)
        assert torch.equal(fresh[2], fresh[0]) and torch.equal(fresh[3], fresh[0]), "older ones begin by adding nothing"
        assert not torch.equal(fresh[1], fresh[0])
        assert model.encoder.older is not None
        model.encoder.older.weight.normal_(generator=torch.Generator().manual_seed(0))
        learned = model.encoder.blind(led)
    assert all(not torch.equal(learned[i], learned[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("past", [0, 30])
def test_too_few_and_too_many_actions(past: int) -> None:
    with pytest.raises(ValueError, match="past_actions"):
        replace(SHAPE, past_actions=past)
