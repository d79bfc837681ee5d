"""Packed frames are the recorded ones, and clips of them are what the episodes' files hold."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.data.packed import CHUNK, PackedFrames


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_any_stretch_of_frames_comes_back(count: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (count, 6, 4, 3), dtype=np.uint8)
    packed = PackedFrames.pack(frames)
    assert packed.count == count
    for start in range(count):
        for stop in {start + 1, min(count, start + CHUNK), count}:
            np.testing.assert_array_equal(packed.unpack(start, stop), frames[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (0, 6), (5, 6)])
def test_frames_that_are_not_there(start: int, stop: int) -> None:
    packed = PackedFrames.pack(np.zeros((5, 2, 2, 3), np.uint8))
    with pytest.raises(IndexError, match="there are 5"):
        packed.unpack(start, stop)


def test_still_frames_take_next_to_nothing() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 80, 80, 3), dtype=np.uint8).repeat(CHUNK, 0)
    packed = PackedFrames.pack(frames)
    assert sum(map(len, packed.chunks)) < 1.5 * frames[0].nbytes


def test_clips_are_those_of_the_files(pong_data: Dataset) -> None:
    store = ClipStore(pong_data, pong_data.train, 16)
    expected = 0
    for info in pong_data.train:
        if info.steps + 1 < 16:
            continue
        episode = pong_data.load(info)
        last = info.steps + 1 - 16
        for start in (0, last // 2, last):
            clip = store[expected + start]
            np.testing.assert_array_equal(clip.frames, episode.frames[start : start + 16])
            np.testing.assert_array_equal(clip.actions, episode.actions[start : start + 15])
            np.testing.assert_array_equal(clip.rewards, episode.rewards[start : start + 15])
            np.testing.assert_array_equal(clip.terminated, episode.terminated[start : start + 15])
        expected += last + 1
    assert len(store) == expected
