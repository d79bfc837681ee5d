"""Attention along time: what it is before it has learned."""

from __future__ import annotations

import torch

from worldsim.model.attention import TemporalAttention, recency


def test_heads_begin_with_the_past_at_other_distances() -> None:
    biases = recency(4, torch.arange(40))
    assert biases.shape == (4, 40) and (biases[:, 0] == 0).all()
    mean_age = (biases.softmax(-1) * torch.arange(40)).sum(-1)
    torch.testing.assert_close(biases[:, 1], torch.tensor([-1.0, -0.25, -0.0625, 0.0]))
    assert (mean_age.diff() > 1).all() and mean_age[-1] == 19.5  # the last one looks at all alike
    assert torch.equal(recency(1, torch.arange(3)), torch.zeros(1, 3))


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
