"""Motion that goes on: against frames in which it does, and against its definition written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.model import motion
from worldsim.model.config import ModelConfig
from worldsim.model.motion import SHARPNESS, UNSEEN
from worldsim.model.world_model import WorldModel

CONFIG = ModelConfig(2, dim=32, heads=2, encoder_layers=1, decoder_layers=1)  # 64x64 in patches of 8, margin 4
DUE = slice(-CONFIG.patch_dim, None)
GROUND, COLOUR = np.array([144, 72, 17]), np.array([236, 236, 236])


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return WorldModel(CONFIG)


def scene(*things: tuple[float, float, int, int]) -> np.ndarray:
    """A frame with things at (left, top) of (width, height)."""
    frame = np.broadcast_to(GROUND, (64, 64, 3)).astype(np.uint8).copy()
    frame[:, 10:12] = (10, 200, 90)  # something that stands still
    for left, top, width, height in things:
        frame[int(top) : int(top) + height, int(left) : int(left) + width] = COLOUR
    return frame


def foretold(model: WorldModel, frames: list[np.ndarray]) -> Tensor:
    """The frame that follows the last one if motion goes on, as patches [L, P]."""
    patches = model.see(torch.from_numpy(np.stack(frames))[None], torch.float32)
    return (patches[0, -1] + model.views(patches)[0, -1, :, DUE]).detach()


def test_a_thing_goes_on_as_it_went(model: WorldModel) -> None:
    """In its middle, at any speed within the margin, wherever it is; at what patches it leaves it may be blurred."""
    draw, still, off = np.random.default_rng(0), 0.0, 0.0
    for across, down in itertools.product((-4, -2, -1, 0, 1, 3), (-4, -1, 0, 2, 3)):
        left, top = draw.integers(24, 44, 2)
        path = [(left + k * across, top + k * down, 2, 3) for k in range(3)]
        frames = [scene(step) for step in path]
        now, then = (model.see(torch.from_numpy(frame), torch.float32) for frame in frames[1:])
        still += float((now - then).square().sum())
        off += float((foretold(model, frames[:2]) - then).square().sum())
    assert off < 0.15 * still


def test_things_far_apart_go_their_own_ways(model: WorldModel) -> None:
    paths = [[(20 + 3 * k, 50 - k, 2, 2), (50, 12 + 4 * k, 2, 8)] for k in range(3)]
    expected = model.see(torch.from_numpy(scene(*paths[2])), torch.float32)
    now = model.see(torch.from_numpy(scene(*paths[1])), torch.float32)
    off = (foretold(model, [scene(*things) for things in paths[:2]]) - expected).square().sum()
    assert off < 0.05 * (now - expected).square().sum()


def test_what_stands_still_stays(model: WorldModel) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert torch.equal(foretold(model, [frame, frame]), model.see(torch.from_numpy(frame), torch.float32))


def test_it_is_its_definition(model: WorldModel) -> None:
    """Of one token amid noise, with sums over pixels written out."""
    draw = np.random.default_rng(1)
    frames = draw.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    frames[1, :20] = frames[0, :20]  # so that most has changed elsewhere
    patches = model.see(torch.from_numpy(frames)[None], torch.float32)
    views = model.views(patches)[0, 1].view(8, 8, -1)
    old, new = (np.pad(f / 127.5 - 1, ((8, 8), (8, 8), (0, 0))) for f in frames)
    change, (row, column) = new - old, (5, 3)
    top, left = 8 + 8 * row, 8 + 8 * column
    around = change[top - 4 : top + 12, left - 4 : left + 12]
    centred = old - (frames[0] / 127.5 - 1).mean((0, 1))
    moves = list(itertools.product(range(-4, 5), repeat=2))
    fits = [
        (around * centred[top - 4 + y : top + 12 + y, left - 4 + x : left + 12 + x]).sum() for y, x in moves
    ]
    weights = np.exp(SHARPNESS * (np.array(fits) - max(fits)) / ((around**2).sum() + UNSEEN))
    parts = [change[top + y : top + 8 + y, left + x : left + 8 + x] for y, x in moves]
    expected = sum(w * part for w, part in zip(weights / weights.sum(), parts, strict=True))
    np.testing.assert_allclose(views[row, column, DUE].view(8, 8, 3).detach(), expected, atol=1e-4)


def test_only_tokens_with_most_change_are_told(model: WorldModel) -> None:
    patches = torch.rand(1, 2, 64, CONFIG.patch_dim, generator=torch.Generator().manual_seed(0))
    due = model.views(patches)[0, 1, :, DUE]
    assert (due != 0).any(-1).sum() == CONFIG.extrapolated


def test_few_and_many_are_looked_at_alike(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (1, 4, 64, 64, 3)).astype(np.uint8))
    patches = model.see(frames, torch.float32)
    together = model.views(patches)
    monkeypatch.setattr(motion, "FEW", 0)
    torch.testing.assert_close(together, model.views(patches), atol=1e-5, rtol=1e-5)
