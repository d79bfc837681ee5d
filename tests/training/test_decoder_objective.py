"""What the decoder alone learns from: squares, and what is left of motion that goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.kept import LOSS, TINY
from worldsim.data.clips import ClipStore
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.batches import make_batch
from worldsim.training.crops import Crops, cut
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import Frames, ReplayConfig
from worldsim.training.loss import attention
from worldsim.training.replay import Replay
from worldsim.vision.colours import ColourReader


def test_a_square_is_cut_from_every_frame_that_is_seen(store: ClipStore) -> None:
    layout = replace(TINY, history=4, extrapolated=0)
    model, crops = init_weights(WorldModel(layout), 0), Crops(layout, 2)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    objective = DecoderObjective(model, LOSS, torch.float32, False, crops)
    kept = Replay(objective, model, 1, 0, patches=True)
    batch = make_batch(store, layout, LOSS, 0, 0, range(2), begun=0)
    kept.add(0, batch, model.see(batch.frames, torch.float32), ())
    drawn, frames, _ = kept.draw(np.random.default_rng(0), 8, ReplayConfig())
    squares = torch.from_numpy(crops.around(np.random.default_rng(1), drawn.patches))
    noise, ones = torch.randn(8, 4, layout.patch_dim, generator=torch.Generator().manual_seed(1)), torch.ones(8)
    past, within = model.shown(frames.past, torch.float32), crops.within(model)
    following = cut(model.shown(frames.following, torch.float32), squares)
    with torch.no_grad():
        x0 = within.decoder(noise, ones, cut(frames.context, squares), cut(model.view_of(past), squares), frames.cue)
        weights = attention(within.config, cut(past[:, -2], squares), cut(past[:, -1], squares), x0, LOSS.moved_weight)
        expected = ((x0 - following).square() * weights).mean()
        assert expected > 0.01
        torch.testing.assert_close(objective.loss(frames, ones, ones, noise, squares), expected)
        least = torch.tensor([16.0] + [1.0] * 7)  # of a frame in which something may come everything counts as moving
        weights[0] = 16
        expected = ((x0 - following).square() * weights).mean()
        torch.testing.assert_close(objective.loss(frames, ones, ones, noise, squares, least), expected)


@pytest.mark.parametrize("told", [0, 4])
def test_what_goes_on_is_not_drawn_for_its_errors_and_what_turns_is(model: WorldModel, told: int) -> None:
    """A square that flies on, and one that turns back, both foretold equally badly; whatever a model is told of."""
    model = init_weights(WorldModel(replace(model.config, extrapolated=told)), 0)

    def frame(on: int, back: int) -> Tensor:
        picture = torch.full((80, 80, 3), 20, dtype=torch.uint8)
        picture[8:12, on : on + 4] = picture[68:72, back : back + 4] = 230
        return picture

    on, back = [6, 9, 12, 15], [47, 50, 53, 50]  # in patches that nothing leaves or enters
    patches = model.patchify(torch.stack([frame(*at) for at in zip(on, back, strict=True)]))
    none = torch.zeros(1).long()
    frames = Frames(torch.zeros(1, 0), patches[None, :3], none, patches[None, 3], none)
    left = DecoderObjective(model, LOSS, torch.float32, False).turned(frames).view(4, 4)
    still = (patches[3].float() - patches[2].float()).div(127.5).square().mean(1).view(4, 4)
    assert left[0].max() < 0.3 * still[0].max() and left[3].max() > 0.8 * still[3].max()
    assert left[1:3].max() < 1e-6, "where nothing moves nothing is left"


def test_errors_of_one_colour_are_told_apart_where_others_err_as_much(model: WorldModel) -> None:
    """The untrained model foretells what it was shown: a ball that has gone, and a paddle that has."""
    field = {"background": {"colour": [144, 72, 17]}}
    things = {"ball": {"colour": [236, 236, 236], "size": [4, 4]}, "paddle": {"colour": [92, 186, 92], "size": [4, 4]}}
    reader = ColourReader(things | field, 80, 80)
    shown = torch.tensor(field["background"]["colour"], dtype=torch.uint8).repeat(80, 80, 1)
    shown[8:12, 8:12] = torch.tensor(things["ball"]["colour"], dtype=torch.uint8)
    shown[8:12, 68:72] = torch.tensor(things["paddle"]["colour"], dtype=torch.uint8)
    patches, none = model.patchify(shown[None]), torch.zeros(1).long()
    gone = model.patchify(torch.tensor(field["background"]["colour"], dtype=torch.uint8).repeat(1, 80, 80, 1))
    frames = Frames(torch.zeros(1, 0), patches[None].expand(-1, 3, -1, -1), none, gone, none)
    unmix = torch.from_numpy(reader.unmixing(["ball"]))
    told = DecoderObjective(model, LOSS, torch.float32, False, unmix=unmix).turned(frames)
    assert torch.equal(told[:1], DecoderObjective(model, LOSS, torch.float32, False).turned(frames))
    all_of_it, ball = told.view(2, 4, 4)
    assert all_of_it[0, 0] > 1e-3 and all_of_it[0, 3] > 1e-3
    assert ball[0, 0] == pytest.approx(16 / 400, rel=1e-4), "a ball of 4 x 4 in a patch of 20 x 20"
    assert ball[0, 3] < 1e-6 and ball[1:].max() < 1e-6
