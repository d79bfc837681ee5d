"""Pasts that do not show what a dream may lose: what is taken out of them, and of which they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.kept import TINY
from tests.training.runs import config
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError, SourceError
from worldsim.model.patches import unpatchify
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.erasing import Eraser
from worldsim.training.kept import Frames, MomentsConfig, ReplayConfig
from worldsim.training.parallel import Ranks
from worldsim.training.rehearsal import Rehearsal
from worldsim.training.trainer import Trainer
from worldsim.vision.colours import ColourReader

FIELD, BALL, BAT = (144, 72, 17), (236, 236, 236), (92, 186, 92)


@pytest.fixture
def reader() -> ColourReader:
    things = {"ball": {"colour": [*BALL], "size": [4, 4]}, "bat": {"colour": [*BAT], "size": [4, 16]}}
    return ColourReader(things | {"background": {"colour": [*FIELD]}}, 80, 80)


@pytest.fixture
def model() -> WorldModel:
    return init_weights(WorldModel(TINY), 0)


def moments(model: WorldModel, count: int) -> Frames:
    """A ball that flies, and a bat that is where it was."""
    pictures = torch.tensor(FIELD, dtype=torch.uint8).repeat(TINY.history + 1, 80, 80, 1)
    pictures[:, 32:48, 70:74] = torch.tensor(BAT, dtype=torch.uint8)
    for tick, picture in enumerate(pictures):
        picture[20:24, 10 + 3 * tick : 14 + 3 * tick] = torch.tensor(BALL, dtype=torch.uint8)
    patches, none = model.patchify(pictures), torch.zeros(count).long()
    past, following = (part.expand(count, *part.shape) for part in (patches[:-1], patches[-1]))
    return Frames(torch.zeros(count, TINY.tokens, TINY.dim), past, none, following, none)


def green(patches: Tensor) -> Tensor:
    """Pixels of the bat [...] in patches [..., L, P]."""
    frames = unpatchify(patches, TINY)
    return ((frames[..., 1] > 100) & (frames[..., 0] < 150)).sum((-1, -2))


def test_only_what_is_named_is_taken_out_and_only_of_the_past(model: WorldModel, reader: ColourReader) -> None:
    frames = moments(model, 200)
    found, chosen = Eraser(model, reader, ["bat"]).erase(np.random.default_rng(0), frames, 0.25)
    assert chosen.sum() == 50 and np.flatnonzero(chosen).std() > 10
    assert torch.equal(found.following, frames.following)
    assert torch.equal(found.past[~torch.from_numpy(chosen)], frames.past[0].expand(150, *frames.past.shape[1:]))
    shows = green(found.past[torch.from_numpy(chosen)]) > 0
    lasting = shows.sum(1)
    assert (shows[:, :-1] | ~shows[:, 1:]).all() and not shows[:, -1].any(), "once gone it does not come back"
    assert 20 <= (lasting == 0).sum() <= 48 and (lasting > 0).any()
    balls = unpatchify(found.past, TINY).int().amin(-1) > 200
    assert torch.equal(balls, unpatchify(frames.past, TINY).int().amin(-1) > 200)
    again, same = Eraser(model, reader, ["bat"]).erase(np.random.default_rng(0), frames, 0.25)
    assert torch.equal(again.past, found.past) and np.array_equal(same, chosen)
    assert torch.equal(frames.past, moments(model, 200).past), "what is kept stays as it was"
    with pytest.raises(SourceError, match="no object 'paddle' is told by its colour"):
        Eraser(model, reader, ["paddle"])


def test_whole_frames_of_a_run_are_shown_such_pasts_and_weigh_as_what_moves(
    pong_data: Dataset, tmp_path: Path
) -> None:
    how = MomentsConfig(
        steps=6, frames=16, clips=6, first=2, every=2, evenly=0.0, own_share=0.0, crop=2, whole=0.5,
        erased=("player",), erased_share=0.5,
    )  # fmt: skip
    trainer = Trainer(config(pong_data, tmp_path, steps=1, moments=how), Ranks())
    seen: list[tuple[bool, int, bool]] = []
    draw = Rehearsal.draw

    def watched(self: Rehearsal, step: int, draws: int) -> object:
        one = draw(self, step, draws)
        player = trainer.reader().coverage(trainer.model.unpatchify(one.frames.past[:, -1]).numpy())[1].sum((1, 2)) > 2
        heavy = one.least.numpy() > 1
        seen.append((one.squares is None, int((~player).sum()), bool((heavy == ~player).all())))
        return one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rehearsal, "draw", watched)
        trainer.begin_decoder()
    assert {whole for whole, _, _ in seen} == {True, False}
    for whole, gone, alike in seen:
        assert gone == (4 if whole else 0) and alike
    with pytest.raises(RunError, match="erased is of whole frames, and crop leaves none: give whole a share"):
        MomentsConfig(crop=2, erased=("player",))


def test_a_share_is_from_0_to_1() -> None:
    with pytest.raises(RunError, match="about_share=1.5 is a share of frames: give a number from 0 to 1"):
        ReplayConfig(about_share=1.5)
    with pytest.raises(RunError, match="erased_share=-1 is a share of frames: give a number from 0 to 1"):
        ReplayConfig(erased_share=-1)
