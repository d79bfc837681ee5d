"""Attention along time: what it is before it has learned."""

from __future__ import annotations

import torch

from worldsim.model.ages import of_window, recency, waves
from worldsim.model.attention import TemporalAttention, ring_bias


def test_heads_begin_with_the_past_at_other_distances() -> None:
    biases = recency(4, torch.arange(40))
    assert biases.shape == (4, 40) and (biases[:, 0] == 0).all()
    mean_age = (biases.softmax(-1) * torch.arange(40)).sum(-1)
    torch.testing.assert_close(biases[:, 1], torch.tensor([-1.0, -0.25, -0.0625, 0.0]))
    assert (mean_age.diff() > 1).all() and mean_age[-1] == 19.5  # the last one looks at all alike
    assert torch.equal(recency(1, torch.arange(3)), torch.zeros(1, 3))


def test_a_head_can_begin_by_looking_around_one_age() -> None:
    biases = recency(4, torch.arange(40), tap=24)
    assert torch.equal(biases[:3], recency(4, torch.arange(40))[:3])
    assert biases[3].argmax() == 24 and biases[3].softmax(-1)[18:31].sum() > 0.9


def test_values_tell_how_old_what_is_looked_at_is() -> None:
    """A layer that looks at one frame only gives out that frame's value and, in its first values, its age."""
    torch.manual_seed(0)
    plain, told = TemporalAttention(16, 1, window=8), TemporalAttention(16, 1, window=8, age_dim=4)
    told.load_state_dict(plain.state_dict(), strict=False)
    for layer in (plain, told):
        torch.nn.init.eye_(layer.out.weight)
        layer.age_bias.data.fill_(-1e4)[:, 5] = 0
    frames = torch.randn(1, 8, 3, 16)
    with torch.no_grad():
        difference = told(frames) - plain(frames)
    torch.testing.assert_close(difference[0, 6, :, :4], waves(8, 4)[5].expand(3, 4), rtol=1e-4, atol=1e-6)
    assert not difference[..., 4:].any()
    assert len({tuple(row) for row in waves(40, 16).mul(100).round().tolist()}) == 40, "no two ages look alike"


def test_one_frame_at_a_time_computes_what_whole_clips_do_with_ages_too() -> None:
    torch.manual_seed(0)
    layer, frames = TemporalAttention(16, 2, window=4, age_dim=6), torch.randn(2, 9, 3, 16)
    assert layer.age_value is not None
    with torch.no_grad():
        layer.age_bias.normal_()
        layer.age_value.normal_()
        whole = layer(frames)
        keys = values = torch.zeros(2, 2, 3, 3, 8)
        for tick in range(9):
            ages = torch.tensor([[(tick - 1 - slot) % 3 + 1 if slot < tick else 0 for slot in range(3)]])
            mixed, key, value = layer.step(frames[:, tick], keys, values, ring_bias([layer], ages)[0])
            torch.testing.assert_close(mixed, whole[:, tick])
            keys, values = keys.clone(), values.clone()
            keys[..., tick % 3, :], values[..., tick % 3, :] = key, value


def test_another_window_looks_at_older_frames_as_at_the_oldest_it_knew() -> None:
    weights = TemporalAttention(16, 2, window=4, age_dim=6).state_dict()
    for window in (3, 6):
        resized = of_window(weights, window)
        TemporalAttention(16, 2, window=window, age_dim=6).load_state_dict(resized)
        for name in ("age_bias", "age_value"):
            assert torch.equal(resized[name][:, :3], weights[name][:, :3])
            assert torch.equal(resized[name][:, -1], weights[name][:, min(window, 4) - 1])


def test_frames_of_a_chunk_are_as_far_away_on_both_sides() -> None:
    attention = TemporalAttention(8, 2, window=5, chunk=3)
    band = attention.band(6)[0]
    assert torch.equal(band[1, :3], torch.tensor([-1.0, 0.0, -1.0]))
    assert torch.equal(band[3, :6], torch.tensor([-3.0, -2.0, -1.0, 0.0, -1.0, -2.0]))


def test_a_new_layer_tells_the_order_of_frames() -> None:
    torch.manual_seed(0)
    attention, frames = TemporalAttention(8, 2, window=8), torch.randn(1, 8, 1, 8)
    shuffled = frames[:, [3, 1, 5, 0, 2, 6, 4, 7]]
    with torch.no_grad():
        one, other = (attention(x)[:, -1] for x in (frames, shuffled))
        attention.age_bias.zero_()
        bag, same = (attention(x)[:, -1] for x in (frames, shuffled))
    assert (one - other).abs().max() > 1e-2
    torch.testing.assert_close(bag, same)
