"""Steps of short clips around moments at which a ball turns or goes: which they are, and that a run goes on with them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.runs import config, same, state, stop_at
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.errors import DataError, RunError, SourceError
from worldsim.training.design_trainer import DesignTrainer
from worldsim.training.loss import LossConfig
from worldsim.training.parallel import Ranks
from worldsim.training.shorts import Shorts, ShortsConfig
from worldsim.training.trainer import Trainer
from worldsim.training.turns import going, turning
from worldsim.vision.colours import ColourReader

HOW = ShortsConfig(about=("ball",), frames=6)


@pytest.fixture(scope="module")
def store(play: Dataset) -> ClipStore:
    return ClipStore(play, play.train, 20)


def test_a_thing_goes_where_it_is_no_more() -> None:
    there = np.full((12, 2), np.nan, np.float32)
    there[[0, 1, 3, 8]] = 5.0
    assert going(there, 3).tolist() == [9, 4] and going(there, 1).tolist() == [9, 4, 2]


def test_every_short_clip_holds_a_turn_or_a_loss_where_it_is_foretold(store: ClipStore, reader: ColourReader) -> None:
    shorts = Shorts.of(store, HOW, reader, frames=None, given=3)
    assert (shorts.clips.length, shorts.each) == (6, 3) and store.length == 20
    turned = gone = 0
    for place in range(60):
        clip, _ = shorts.clips.draw(0, 0, place)
        (ball,) = reader.middles(clip.frames, ["ball"])
        turns, lost = turning(ball), np.flatnonzero(~np.isnan(ball[:-1, 0]) & np.isnan(ball[1:, 0])) + 1
        assert any(tick >= 3 for tick in (*turns, *lost)), f"clip {place}: {ball}"
        turned, gone = turned + bool(len(turns)), gone + bool(len(lost))
    assert turned > gone > 0, "balls are hit more often than they are missed"
    by_chance = [turning(reader.middles(store[i].frames[:6], ["ball"])[0]) for i in range(0, len(store), 25)]
    assert np.mean([len(turns) > 0 for turns in by_chance]) < 0.5 < turned / 60


def test_equal_numbers_draw_the_same_and_other_places_others(store: ClipStore, reader: ColourReader) -> None:
    clips = Shorts.of(store, HOW, reader, frames=8, given=3).clips
    first, again, other = (clips.draw(3, 1, place)[0].frames for place in (0, 0, 1))
    assert len(first) == 8 and (first == again).all() and (first != other).any()


def test_steps_and_places(store: ClipStore, reader: ColourReader) -> None:
    shorts = Shorts(store, share=0.25, each=3)
    assert [shorts.at(step) for step in range(8)] == [False, False, False, True] * 2
    assert shorts.places(range(2, 4)) == range(6, 12)
    with pytest.raises(RunError, match="shorts of 21 frames are longer than clips of 20: give a larger clip"):
        Shorts.of(store, HOW, reader, frames=21, given=3)
    with pytest.raises(SourceError, match="no object 'bat' is told by its colour"):
        Shorts.of(store, ShortsConfig(about=("bat",)), reader, frames=None, given=3)
    with pytest.raises(DataError, match="nothing of that kind was recorded"):
        store.around([np.zeros(0, np.intp) for _ in store.episodes], 6, 3)
    for about, share, frames in (((), 0.5, 10), (("ball",), 1.0, 10), (("ball",), 0.5, 3)):
        with pytest.raises(RunError, match="shorts need about"):
            ShortsConfig(about, share, frames)


@pytest.mark.parametrize("design", ["scd", "dit", "clip:2"])
def test_a_stopped_run_goes_on_to_the_same_weights(play: Dataset, tmp_path: Path, design: str) -> None:
    def run(name: str, stopped: int | None = None) -> Path:
        folder = tmp_path / name
        shape = {"patch": 16, "dim": 32, "heads": 2, "encoder_layers": 1, "window": 4}
        told = config(play, folder, design=design, steps=4, clip=12, shorts=HOW, model=shape, loss=LossConfig())
        trainer = (Trainer if design == "scd" else DesignTrainer)(told, Ranks())
        if stopped:
            stop_at(trainer, stopped)
        trainer.train()
        return folder

    straight = state(run("straight"))
    run("stopped", 3)
    assert same(straight, state(run("stopped")))
