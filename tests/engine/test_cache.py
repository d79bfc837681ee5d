"""The ring cache: slots, ages, and rows that live their own lives. What it computes: test_contracts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.engine.cache import RingCache, slot_ages
from worldsim.world import World


def frame(world: World, rows: int, number: float) -> Tensor:
    """A key or value [layers, rows, h, L, hd] that can be recognised."""
    c = world.config.model
    return torch.full((c.encoder_layers, rows, c.heads, c.tokens, c.head_dim), float(number))


def slots(cache: RingCache, row: int) -> list[float]:
    """What the slots of a row hold."""
    return cache.keys[0, row, 0, 0, :, 0].tolist()


def test_ages_count_back_from_the_newest_frame_and_wrap() -> None:
    assert slot_ages(0, 4) == [0, 0, 0, 0]
    assert slot_ages(2, 4) == [2, 1, 0, 0]
    assert slot_ages(4, 4) == [4, 3, 2, 1]
    assert slot_ages(6, 4) == [2, 1, 4, 3]
    assert slot_ages(4_000_000_002, 4) == [2, 1, 4, 3]  # 4 years of play


def test_a_new_frame_takes_the_oldest_ones_place(tiny_world: World) -> None:
    cache = RingCache(tiny_world.model, 2)
    for number in range(1, 7):
        cache.write(frame(tiny_world, 2, number), frame(tiny_world, 2, -number))
    assert slots(cache, 0) == slots(cache, 1) == [5, 6, 3, 4]
    assert (cache.values == -cache.keys).all()
    assert cache.ages().tolist() == [[2, 1, 4, 3]] * 2


def test_a_row_starts_over_while_the_others_go_on(tiny_world: World) -> None:
    cache = RingCache(tiny_world.model, 3)
    for number in range(1, 7):
        cache.write(frame(tiny_world, 3, number), frame(tiny_world, 3, number))
    cache.reset([1])
    cache.write(frame(tiny_world, 3, 7), frame(tiny_world, 3, 7))
    assert slots(cache, 0) == slots(cache, 2) == [5, 6, 7, 4]
    assert slots(cache, 1) == [7, 0, 0, 0]
    assert cache.ages().tolist() == [[3, 2, 1, 4], [1, 0, 0, 0], [3, 2, 1, 4]]


@pytest.mark.parametrize("apart", [False, True])
def test_the_bias_is_the_age_bias_of_every_row_and_tick(tiny_world: World, apart: bool) -> None:
    cache = RingCache(tiny_world.model, 2)
    for number in range(13):
        if apart and number == 6:
            cache.reset([1])
        with torch.inference_mode():
            wanted = tiny_world.model.ring_bias(torch.from_numpy(cache.ages()))
        torch.testing.assert_close(cache.bias().expand_as(wanted), wanted, rtol=0, atol=0)
        cache.write(frame(tiny_world, 2, number), frame(tiny_world, 2, number))


def test_rows_adopted_from_another_cache_keep_their_history(tiny_world: World) -> None:
    cache, other = RingCache(tiny_world.model, 3), RingCache(tiny_world.model, 2)
    for number in range(1, 6):
        other.write(frame(tiny_world, 2, number), frame(tiny_world, 2, number))
    cache.adopt([2, 0], other)
    assert slots(cache, 0) == slots(cache, 2) == [5, 2, 3, 4] and slots(cache, 1) == [0, 0, 0, 0]
    assert cache.written.tolist() == [5, 0, 5]
    np.testing.assert_array_equal(cache.ages()[1], 0)


def test_nothing_is_allocated_by_a_write(tiny_world: World) -> None:
    cache = RingCache(tiny_world.model, 2)
    places = cache.keys.data_ptr(), cache.values.data_ptr()
    for number in range(9):
        cache.write(frame(tiny_world, 2, number), frame(tiny_world, 2, number))
    assert places == (cache.keys.data_ptr(), cache.values.data_ptr())
