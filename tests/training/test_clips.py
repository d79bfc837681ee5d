"""Which clips are drawn: all alike, those that hold an event, those that show what a reward leads to."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.test_loss import LOSS, TINY
from worldsim.data.clips import ClipStore
from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.designs import Design
from worldsim.training.batches import make_batch
from worldsim.training.forcing import Forcing


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """500 steps of real Pong: points, but no whole game."""
    folder = str(tmp_path_factory.mktemp("points"))
    config = CollectConfig(source="pong", steps=500, processes=1, held_out=0, folder=folder, episode_steps=500)
    return collect(config, progress=False)


def test_a_clip_can_be_asked_to_hold_an_event(points: Dataset) -> None:
    store = ClipStore(points, points.train, 8)
    rewards = np.concatenate([points.load(info).rewards for info in points.train])
    assert ("lost" in store.events, "won" in store.events) == ((rewards < 0).any(), (rewards > 0).any())
    assert store.events and "end" not in store.events, "500 steps are points, but no whole game"
    for event in store.events:
        sign = {"lost": -1, "won": 1}[event]
        chosen = [store.draw(0, step, 0, event=event)[0] for step in range(30)]
        assert all((np.sign(clip.rewards) == sign).any() for clip in chosen)
    assert not all((store.draw(0, step, 0)[0].rewards != 0).any() for step in range(30))


def test_what_a_reward_leads_to_is_in_the_clip(points: Dataset) -> None:
    store, rng = ClipStore(points, points.train, 50), np.random.default_rng(0)
    places = set()
    for _ in range(40):
        clip = store.after_reward(rng, 33)
        assert clip is not None and (rewarded := np.flatnonzero(clip.rewards[: 49 - 33])).size
        places.add(int(rewarded[0]))
    assert len(places) > 8  # and not always at the same tick of a clip
    told = replace(LOSS, rewarded=1.0, own_share=0.0)
    for step in range(8):
        batch = make_batch(store, TINY, told, 0, step, range(2))
        assert ((batch.rewards != 1)[:, : 49 - TINY.window].sum(1) > 0).all()
        how = Forcing(Design.parse("dit"), TINY, "diffusion", 5.0, rewarded=1.0)
        drawn = how.batch(store, 0, step, range(2), torch.device("cpu"))
        assert torch.equal(drawn.frames, batch.frames), "designs of any kind see the same clips"


def test_a_batch_knows_of_rewards_before_its_clips(points: Dataset) -> None:
    """And tells the decoder of each at the tick after it, not before."""
    store, told = ClipStore(points, points.train, 8), replace(TINY, reward_ages=40)
    earlier = 0
    for step in range(30):
        batch = make_batch(store, told, LOSS, 0, step, range(2))
        ages = batch.cues(told) // told.num_actions
        for row in range(2):
            rewards, since = batch.rewards[row] - 1, batch.since[row]
            earlier += int(since[0] != 0 and since[0].abs() <= 40)
            for tick in range(1, 7):
                before = rewards[tick - 1]
                assert since[tick] == (before if before else since[tick - 1] + since[tick - 1].sign())
                assert not before or ages[row, tick] == (41 if before > 0 else 1)
    assert earlier


def test_some_clips_are_not_told_of_their_rewards_and_are_the_same_otherwise(points: Dataset) -> None:
    store, told = ClipStore(points, points.train, 40), replace(TINY, reward_ages=40)
    kept = forgotten = 0
    for step in range(30):
        how = replace(LOSS, untold=0.5)
        some, all_told = (make_batch(store, told, one, 0, step, range(2)) for one in (how, LOSS))
        for name, value in vars(some).items():
            assert name == "since" or torch.equal(value, vars(all_told)[name]), name
        for row in range(2):
            if not some.since[row].any():
                assert torch.equal(some.cues(told)[row], some.actions[row])
                forgotten += bool(all_told.since[row].any())
            else:
                assert torch.equal(some.since[row], all_told.since[row])
                kept += 1
    assert kept > 5 and forgotten > 5


def test_where_nothing_is_rewarded_clips_are_drawn_as_ever(points: Dataset) -> None:
    quiet = copy.copy(ClipStore(points, points.train, 2 * TINY.window))
    quiet._rewarded = np.zeros_like(quiet._rewarded)
    assert quiet.after_reward(np.random.default_rng(0), 3) is None
    told, plain = (make_batch(quiet, TINY, how, 5, 0, range(2)) for how in (replace(LOSS, rewarded=1.0), LOSS))
    for name, value in vars(told).items():
        assert torch.equal(value, vars(plain)[name]), name


def test_own_frames_are_made_from_levels_between_two(points: Dataset) -> None:
    store, between = ClipStore(points, points.train, 40), replace(LOSS, own_level=0.25, own_highest=0.3)
    levels = torch.cat([make_batch(store, TINY, between, 0, step, range(2)).own_level for step in range(4)])
    assert levels.min() >= 0.25 and levels.max() <= 0.3 and levels.std() > 0.01
    for low, high in ((0.5, 0.4), (0.0, 1.0), (0.5, 1.1)):
        with pytest.raises(RunError, match=f"own_level={low:g} and own_highest={high:g} are no levels"):
            replace(LOSS, own_level=low, own_highest=high)
