"""A session: rows, seeds, snapshots and outcomes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.engine.sessions import play, started
from worldsim.engine.session import Session
from worldsim.errors import StartError, WorldsimError
from worldsim.model.cue import cues, since_rewards
from worldsim.world import Start, World

MakeWorld = Callable[..., World]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_seed_and_actions_give_the_same_bytes(tiny_world: World, dtype: str) -> None:
    one, two = (play(started(tiny_world, 2, seed=7, dtype=dtype), 12) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.std() > 10, "an empty picture would agree with itself too"


def test_another_seed_gives_other_frames(tiny_world: World) -> None:
    one, two = (play(started(tiny_world, seed=seed), 12) for seed in (7, 8))
    assert (one != two).any()


def test_the_global_generator_is_neither_read_nor_written(tiny_world: World) -> None:
    frames = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        frames.append(play(started(tiny_world, seed=7), 3))
        assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(*frames)


def test_row_i_of_a_batch_plays_as_a_single_session_of_its_seed(tiny_world: World) -> None:
    batch = Session(tiny_world, 3, seed=40, dtype="float32")
    batch.reset()
    singles = [started(tiny_world, seed=40 + i, dtype="float32") for i in range(3)]
    random = np.random.default_rng(0)
    for _ in range(15):
        actions = random.integers(0, 3, 3)
        frames, outcome = batch.step(actions)
        for row, single in enumerate(singles):
            frame, alone = single.step(actions[row : row + 1])
            # Matrix products of another batch size may differ in the last bit, so a grey level may round the
            # other way.
            assert np.abs(frame[0].astype(int) - frames[row]).max() <= 1
            assert alone.reward[0] == outcome.reward[row] and alone.terminated[0] == outcome.terminated[row]


def test_a_row_reset_in_mid_play_is_as_new_and_the_others_do_not_notice(tiny_world: World) -> None:
    reset, alone, fresh = (Session(tiny_world, n, seed=3, dtype="float32") for n in (2, 2, 2))
    for session in (reset, alone):
        session.reset()
        play(session, 7)
    shown = reset.reset([1], start="clip 0", seed=9)
    assert shown.shape == (1, 16, 24, 3) and reset.tick.tolist() == [7, 0]
    np.testing.assert_array_equal(shown[0], tiny_world.starts[2].frames[-1])
    fresh.reset(start="clip 0", seed=[0, 9])
    one, two, three = (play(session, 9, seed=1) for session in (reset, alone, fresh))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert np.abs(one[:, 1].astype(int) - three[:, 1]).max() <= 1
    assert (one[:, 1] != two[:, 1]).any()


def test_starts_of_different_lengths_share_a_batch(tiny_world: World) -> None:
    long = Start("long", np.zeros((9, 16, 24, 3), np.uint8), np.ones(8, np.int64))
    batch = Session(tiny_world, 2, seed=3, dtype="float32")
    batch.reset(start=[long, 2])
    single = Session(tiny_world, seed=3, dtype="float32")
    single.reset(start=long)
    one, two = play(batch, 8)[:, 0], None
    random = np.random.default_rng(0)
    actions = random.integers(0, 3, (8, 2))
    two = np.stack([single.step(action[:1])[0][0] for action in actions])
    assert np.abs(one.astype(int) - two).max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pending", [False, True])
def test_a_pickled_snapshot_continues_bit_for_bit(make_world: MakeWorld, dtype: str, pending: bool) -> None:
    world = make_world(reward=1)
    session = started(world, 2, seed=5, dtype=dtype)
    play(session, 6)
    session.reset([1])
    play(session, 3)
    if pending:
        session.render([1, 2])
    state = pickle.loads(pickle.dumps(session.snapshot()))
    other = Session(world, 2, seed=99, dtype=dtype)
    endings = []
    for one in (session, session, other):  # at once, after playing on, and elsewhere
        one.restore(state)
        np.testing.assert_array_equal(one.frames, state.frames)
        outcomes = [one.commit()] if pending else []
        frames = play(one, 8)
        outcomes.append(one.step([0, 1])[1])
        endings.append((frames.tobytes(), repr(outcomes), one.score.tobytes(), one.tick.tobytes()))
    assert endings[0] == endings[1] == endings[2]


def test_some_rows_are_restored_and_the_others_go_on(tiny_world: World) -> None:
    session, other = (started(tiny_world, 3, seed=5) for _ in range(2))
    early = session.snapshot([0])
    for one in (session, other):
        play(one, 4)
    session.restore(early, [2])
    one, two = play(session, 6), play(other, 6)
    np.testing.assert_array_equal(one[:, :2], two[:, :2])
    assert (one[:, 2] != two[:, 2]).any() and session.tick.tolist() == [10, 10, 6]


def test_a_snapshot_does_not_change_when_the_session_goes_on(tiny_world: World) -> None:
    session = started(tiny_world)
    state = session.snapshot()
    kept = pickle.dumps(state)
    play(session, 7)
    assert pickle.dumps(state) == kept


def test_a_state_that_does_not_belong_is_refused_and_the_session_plays_on(make_world: MakeWorld) -> None:
    world, stranger = make_world(), make_world(seed=1)
    session, other = started(world, dtype="float32"), started(world, dtype="float32")
    state = session.snapshot()
    nan = replace(state, generators=np.zeros_like(state.generators))
    refused = {
        "another world": started(stranger, dtype="float32").snapshot(),
        "use the same dtype": started(world, dtype="bfloat16").snapshot(),
        "holds 2 rows": started(world, 2, dtype="float32").snapshot(),
        "version 0": replace(state, version=0),
        "keys is damaged": replace(state, keys=state.keys[:, :1]),
        "tick is damaged": replace(state, tick=state.tick.astype(np.float64)),
        "frames is damaged": replace(state, frames=None),  # type: ignore[arg-type]
        "action or reward is damaged": replace(state, actions=state.actions + 3),
        "count, action or reward is damaged": replace(state, trail=state.trail - 16),
        "reward is damaged": replace(state, since=np.full_like(state.since, np.iinfo(np.int64).min)),
        "or reward is damaged": replace(state, doubt=state.doubt - 1),
        "generator is damaged": nan,
        "not a state": "state",
    }
    for reason, bad in refused.items():
        with pytest.raises(WorldsimError, match=reason):
            session.restore(bad)  # type: ignore[arg-type]
    np.testing.assert_array_equal(play(session, 5), play(other, 5))


def test_a_state_holds_for_how_long_the_frames_have_contradicted_the_count(make_world: MakeWorld) -> None:
    state = started(make_world(), 2).snapshot()
    assert state.doubt.tolist() == [0, 0]
    session = started(make_world(), 2)
    session.restore(replace(state, doubt=np.array([1, 0])))
    assert session.snapshot().doubt.tolist() == [1, 0] and session.snapshot([1]).doubt.tolist() == [0]


def test_points_are_tallied_and_end_the_episode_at_the_score_limit(make_world: MakeWorld) -> None:
    for reward, side in ((1, 0), (-1, 1)):
        session = started(make_world(reward=reward, settings={"score_limit": 3}), 2)
        ends = []
        for tick in range(4):
            if tick == 1:
                session.reset([1])
            _, outcome = session.step([0, 0])
            assert outcome.reward.tolist() == [reward] * 2 and outcome.reward.dtype == np.float32
            ends.append(outcome.terminated.tolist())
        assert session.score[:, side].tolist() == [4, 3] and session.score[:, 1 - side].tolist() == [0, 0]
        assert ends == [[False, False], [False, False], [True, False], [True, True]]


def test_the_end_head_ends_an_episode(make_world: MakeWorld) -> None:
    assert started(make_world(end=True)).step([0])[1].terminated.tolist() == [True]
    assert started(make_world(end=False)).step([0])[1].terminated.tolist() == [False]


def test_where_there_is_a_score_limit_the_end_head_is_not_asked(make_world: MakeWorld) -> None:
    session = started(make_world(end=True, reward=1, settings={"score_limit": 2}))
    assert [session.step([0])[1].terminated.tolist() for _ in range(2)] == [[False], [True]]


def test_lives_end_an_episode_with_the_last_and_a_state_holds_them(make_world: MakeWorld) -> None:
    session = started(make_world(end=True, settings={"lives": 2}), 2)
    left = session.lives
    assert left is not None and left.tolist() == [2, 2]
    assert session.step([0, 0])[1].terminated.tolist() == [False, False] and left.tolist() == [1, 1]
    state = session.snapshot()
    assert session.step([0, 0])[1].terminated.tolist() == [False, False], "one loss that is told twice"
    with torch.no_grad():
        session.model.heads.end.bias.neg_()  # tells of none
    session.step([0, 0], idle=[1])
    with torch.no_grad():
        session.model.heads.end.bias.neg_()
    assert session.step([0, 0])[1].terminated.tolist() == [True, False] and left.tolist() == [0, 1]
    session.reset([0])
    assert left.tolist() == [2, 1]
    session.restore(state)
    assert left.tolist() == [1, 1]
    assert session.step([0, 0])[1].terminated.tolist() == [False, False], "the loss before was told already"
    assert started(make_world()).lives is None


def test_a_start_tells_of_its_last_reward(tiny_world: World) -> None:
    def after(since: int) -> NDArray[np.uint8]:
        session = Session(tiny_world, seed=3)
        session.reset(start=replace(tiny_world.starts[0], since=since))
        return session.render([1])

    for wrong in (0.5, True, 2**40):
        with pytest.raises(StartError, match="since must be a whole number of ticks up to 2147483648"):
            after(wrong)  # type: ignore[arg-type]
    forgotten = after(0)
    assert (after(-2) != forgotten).any() and (after(2) != after(-2)).any()
    np.testing.assert_array_equal(after(tiny_world.config.model.reward_ages + 1), forgotten)


def test_the_decoder_is_told_of_the_rewards_that_were_given(make_world: MakeWorld) -> None:
    world, told = make_world(), []
    with torch.no_grad():  # so that what is seen says which it is
        world.model.heads.reward.bias.zero_()
        world.model.heads.reward.weight.mul_(30)
    session = Session(world, 2, seed=5)
    parts = session.make_parts("eager")

    def decode(noise: torch.Tensor, scene: torch.Tensor, cue: torch.Tensor) -> Any:
        told.append(cue.clone())
        return parts.decode(noise, scene, cue)

    session.adopt(replace(parts, decode=decode))
    session.reset(start=[replace(world.starts[0], since=-2), world.starts[1]])
    random = np.random.default_rng(0)
    actions = random.integers(0, 3, (12, 2))
    rewards = np.stack([session.step(action)[1].reward for action in actions])
    assert len(np.unique(rewards)) > 1
    before = np.array([[-1, 0], [0, 0]], np.float32)  # what the starts say
    since = np.stack([since_rewards(row)[2:-1] for row in np.concatenate((before, rewards)).T], 1)
    expected = cues(torch.from_numpy(actions), torch.from_numpy(since), world.config.model)
    assert torch.equal(torch.stack(told), expected)


def test_the_default_start_is_an_episodes_beginning_drawn_by_the_rows_own_generator(
    tiny_world: World,
) -> None:
    session = Session(tiny_world, 8, seed=1)
    beginnings = [start.frames[-1].tobytes() for start in tiny_world.starts[:2]]
    shown = [frame.tobytes() for frame in session.reset()]
    assert set(shown) == set(beginnings)
    assert [Session(tiny_world, seed=1 + i).reset()[0].tobytes() for i in range(8)] == shown
    np.testing.assert_array_equal(session.reset(start=2)[0], tiny_world.starts[2].frames[-1])


def test_more_denoising_steps_may_be_asked_for_at_any_time(tiny_world: World) -> None:
    session = started(tiny_world, steps=1)
    few = session.snapshot()
    frame = session.step([1])[0]
    session.restore(few)
    session.steps = 8
    assert session.steps == 8 and (session.step([1])[0] != frame).any()


def test_a_world_says_how_far_from_noise_its_later_steps_begin(make_world: MakeWorld) -> None:
    """A shift tells in two steps, and cannot in one, which begins at pure noise whatever it is."""
    for steps, alike in ((1, True), (2, False), (3, False)):
        frames = []
        for shift in (1.0, 0.2):
            world = make_world(settings={"shift": shift})
            session = started(world, steps=steps)
            frames.append(session.step([1])[0])
            other = started(world, steps=5 - steps)
            other.steps = steps
            assert (other.step([1])[0] == frames[-1]).all(), "asked for from the beginning or later on"
        assert (frames[0] == frames[1]).all() == alike, steps


def test_every_stage_of_a_tick_is_timed(tiny_world: World) -> None:
    session = started(tiny_world)
    play(session, 4)
    assert list(session.stopwatch.last) == ["decode", "to_uint8", "encode", "outcome"]
    assert all(len(session.stopwatch.samples(stage)) == 4 for stage in session.stopwatch.last)


def test_returned_frames_are_the_callers_own(tiny_world: World) -> None:
    session, other = started(tiny_world), started(tiny_world)
    for one in (session, other):
        frame = one.reset(start=0, seed=1)
        if one is session:
            frame[:] = 0
            one.frames[:] = 0
        shown = one.render([1])
        if one is session:
            shown[:] = 0
        one.commit()
    np.testing.assert_array_equal(play(session, 3), play(other, 3))


def test_sessions_share_weights(tiny_world: World) -> None:
    for dtype in ("float32", "bfloat16"):
        one, two = (Session(tiny_world, dtype=dtype) for _ in range(2))
        assert one.model is two.model
    assert Session(tiny_world, dtype="float32").model is tiny_world.model
