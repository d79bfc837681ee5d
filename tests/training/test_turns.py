"""Moments at which things turn or come: which they are, what is kept of them, and how often each is drawn."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.kept import TINY
from tests.training.runs import config
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.data.packed import PackedFrames
from worldsim.errors import RunError, SourceError
from worldsim.model.cue import cues, since_rewards
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.kept import Frames, MomentsConfig
from worldsim.training.loop import ReportConfig
from worldsim.training.parallel import Ranks
from worldsim.training.rehearsal import Rehearsal
from worldsim.training.trainer import Trainer
from worldsim.training.turns import COMING, Turns, coming, turning
from worldsim.vision.colours import ColourReader

HOW = MomentsConfig(
    steps=6, frames=8, clips=6, first=2, every=2, evenly=0.0, own_share=0.0, crop=2, about=("ball",), turned_share=0.5
)


@pytest.fixture(scope="module")
def store(play: Dataset) -> ClipStore:
    return ClipStore(play, play.train, 8)


@pytest.fixture
def turns(store: ClipStore, reader: ColourReader) -> Turns:
    return Turns(store, told(), reader, ["ball"])


def told() -> WorldModel:
    return init_weights(WorldModel(replace(TINY, reward_ages=200)), 0)


def test_a_turn_is_where_motion_does_not_go_on() -> None:
    there = np.array([(3, 3), (5, 4), (7, 5), (9, 6), (10, 5.2), (8.5, 3), (7, 1), (5.5, -1)], np.float32)
    assert turning(there).tolist() == [4], "the first of the two in a row: it is hit within a tick"
    assert turning(there[:4]).tolist() == [] and turning(there[::-1]).tolist() == [4]
    assert turning(there + np.float32(0.3) * np.array([[1, -1]] * 4 + [[-1, 1]] * 4)).tolist() == [4]
    gone = there.copy()
    gone[4] = np.nan
    assert turning(gone).tolist() == [], "of what comes or goes nobody knows the motion"
    assert turning(there[:2]).tolist() == []


def test_a_thing_comes_where_it_was_not_for_some_frames() -> None:
    there = np.full((12, 2), np.nan, np.float32)
    there[[0, 1, 3, 7, 8, 11]] = 5.0
    assert coming(there, 3).tolist() == [7] and coming(there, 2).tolist() == [7, 11]
    assert coming(there, 1).tolist() == [3, 7, 11] and coming(there[2:3], 3).tolist() == []


def test_a_share_of_the_draws_is_of_what_comes(play: Dataset, turns: Turns) -> None:
    """A served ball: in the frame that follows, where it is drawn for, and not in the one before."""
    arrivals = set()
    for info in play.train:
        episode = play.load(info)
        ball = np.stack((episode.state["ball_x"], episode.state["ball_y"]), 1)
        came = coming(ball.astype(np.float32), TINY.history + 1)
        arrivals |= {(episode.frames[tick].tobytes(), *(ball[tick] + 0.5).astype(int) // 20) for tick in came}
    patches, frames, comes = turns.draw(np.random.default_rng(0), 1000)
    assert comes.mean() == pytest.approx(COMING + (1 - COMING) * turns._coming.mean(), abs=0.05) and len(arrivals) > 5
    pixels = told().unpatchify(frames.following).numpy()
    found = [(pixels[k].tobytes(), patches[k] % 4, patches[k] // 4) in arrivals for k in np.flatnonzero(comes).tolist()]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1), "the other half is of the ticks beside"


def test_a_turn_is_kept_as_it_was_recorded(play: Dataset, turns: Turns) -> None:
    """All of them, and with every tick around one that can be drawn."""
    model, drawn = told(), {}
    patches, frames, comes = turns.draw(np.random.default_rng(0), 500)
    for k in np.flatnonzero(~comes).tolist():
        patch = int(patches[k])
        drawn[frames.past[k].numpy().tobytes() + frames.following[k].numpy().tobytes()] = k, patch
    before, found, known = TINY.history + 1, 0, set()
    for info in play.train:
        episode = play.load(info)
        ball = np.stack((episode.state["ball_x"], episode.state["ball_y"]), 1).astype(np.float32)
        since = since_rewards(episode.rewards)
        for turn in turning(ball).tolist():
            if not before <= turn < len(ball) - 1:
                continue
            found += 1
            for tick in (turn - 1, turn, turn + 1):
                seen = model.patchify(torch.from_numpy(episode.frames[tick - TINY.history : tick + 1]))
                key = seen[:-1].numpy().tobytes() + seen[-1].numpy().tobytes()
                if key not in drawn:
                    continue
                known.add(turn)
                k, patch = drawn.pop(key)
                cue = cues(*(torch.tensor(of[tick - 1]) for of in (episode.actions.astype(int), since)), model.config)
                assert frames.cue[k] == cue and frames.previous[k] == episode.actions[tick - 2]
                column, row = (ball[turn - 1] + 0.5).astype(int) // 20
                assert patch == 4 * row + column
    assert found > 10 and abs((~turns._coming).sum() - found) <= 0.1 * found, "by the game's own state as by colour"
    assert len(drawn) <= 0.1 * len(known) * 3 and frames.context.shape == (500, 0)


def test_half_of_the_draws_go_by_errors(turns: Turns) -> None:
    def arrival(frames: Frames, noise: torch.Tensor) -> torch.Tensor:
        assert noise.shape == frames.following.shape and len(noise) == 128, "always as many: it is compiled once"
        errors = torch.zeros(2, 128, 16)
        errors[0] = 7.0
        errors[1, 2, 5] = 1.0
        errors[1, 4, 3] = 3.0
        return errors

    turns.judge(arrival, 0)
    assert turns.errors.shape == (len(turns),) and turns.errors[[2, 4]].tolist() == [1.0, 3.0]
    frames = turns.draw(np.random.default_rng(0), 2000)[1].following.flatten(1).numpy()
    assert not np.array_equal(frames, turns.draw(np.random.default_rng(1), 2000)[1].following.flatten(1).numpy())
    often = {}
    pieces = [piece.unpack(0, piece.count) for piece in turns._pieces]
    model = told()
    for which in (2, 4):
        own = model.patchify(torch.from_numpy(pieces[which])).flatten(1).numpy()
        often[which] = sum(any(np.array_equal(frame, one) for one in own) for frame in frames) / len(frames)
    expected = {which: (1 - COMING) * (share + 0.5 / len(turns)) for which, share in ((2, 0.125), (4, 0.375))}
    assert not turns._coming[[2, 4]].any() and often == pytest.approx(expected, abs=0.04)
    with pytest.raises(RunError, match=rf"began with 3 turns, and {len(turns)} are recorded now: begin another"):
        turns.restore(torch.ones(3))
    turns.restore(torch.ones(len(turns)))
    assert turns.errors.tolist() == [1.0] * len(turns)


def test_rewards_are_told_of_but_for_a_share(store: ClipStore, reader: ColourReader, turns: Turns) -> None:
    silent = Turns(store, told(), reader, ["ball"], untold=1.0).draw(np.random.default_rng(0), 50)[1]
    assert silent.cue.max() < TINY.num_actions <= turns.draw(np.random.default_rng(0), 50)[1].cue.max()


def test_what_never_turns_and_what_is_not_told_by_colour(store: ClipStore, reader: ColourReader) -> None:
    first = store.episodes[0]
    still = copy.copy(store)
    still.episodes = [replace(first, frames=PackedFrames.pack(first.frames.unpack(0, 1).repeat(40, 0)))]
    with pytest.raises(RunError, match=r"ball never turn in what was recorded: give moments.turned_share=0"):
        Turns(still, told(), reader, ["ball"])
    with pytest.raises(SourceError, match="no object 'bat' is told by its colour"):
        Turns(store, told(), reader, ["bat"])


def test_a_share_of_the_squares_is_of_turns_and_a_run_goes_on_with_the_same(
    pong_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = [], Rehearsal.draw

    def noted(self: Rehearsal, step: int, draws: int) -> object:
        drawn.append(draw(self, step, draws))
        return drawn[-1]

    monkeypatch.setattr(Rehearsal, "draw", noted)
    quick = ReportConfig(save_seconds=1e9, held_out_every=1000, grid_every=1000)

    def trainer(name: str) -> Trainer:
        return Trainer(config(pong_data, tmp_path / name, steps=1, moments=HOW, report=quick), Ranks())

    whole = trainer("whole")
    whole.begin_decoder()
    assert [int((one.at.frames < 0).sum()) for one in drawn] == [4] * 6
    assert all(len(one.frames.past) == 8 and one.squares.shape == (8, 4) for one in drawn)
    least = torch.cat([one.least for one in drawn])
    turned = torch.cat([torch.from_numpy(one.at.frames < 0) for one in drawn])
    assert least.unique().tolist() == [1.0, 16.0] and bool((least[~turned] == 1).all())
    parted = trainer("parted")
    monkeypatch.setattr(parted, "stepped", lambda watch, parts: parted.step == 3 and (parted.save() or True))
    parted.begin_decoder()
    assert parted.step == 3
    with monkeypatch.context() as patched:
        patched.setattr(Turns, "judge", lambda *_, **__: pytest.fail("they were judged before"))
        again = trainer("parted")
        again.begin_decoder()
    assert again.step == 6
    for one, other in zip(drawn[:6], drawn[6:], strict=True):
        assert np.array_equal(one.at.patches, other.at.patches) and torch.equal(one.frames.past, other.frames.past)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


@pytest.mark.parametrize("wrong", [{"turned_share": 1.5}, {"about": ()}, {"crop": None}])
def test_a_share_of_turns_that_makes_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(RunError, match=r"is a share of squares, from 0 to 1, where some things turn: give such a one"):
        replace(HOW, **wrong)  # type: ignore[arg-type]
