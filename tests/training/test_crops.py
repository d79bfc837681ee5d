"""Squares of frames: where they lie, and that a decoder computes in them what it computes in the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.patches import unpatchify
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.batches import make_batch
from worldsim.training.crops import ANYWHERE, Crops, cut
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective

LAYOUT = ModelConfig(6, 80, 120, 10, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4)


def places(squares: NDArray[np.int64], crops: Crops) -> NDArray[np.int64]:
    """Rows and columns [N, 2] of squares' first patches, having checked that they are squares within the frame."""
    side, columns = crops.side, crops.layout.columns
    grid = squares.reshape(-1, side, side)
    top, left = np.divmod(grid[:, 0, 0], columns)
    rows, cols = np.arange(side)[:, None], np.arange(side)
    np.testing.assert_array_equal(grid, (top[:, None, None] + rows) * columns + left[:, None, None] + cols)
    assert (top + side <= crops.layout.rows).all() and (left + side <= columns).all()
    return np.stack((top, left), 1)


def shaken(layout: ModelConfig) -> WorldModel:
    """A model whose decoder draws something: its last layers begin at zero."""
    model, chance = init_weights(WorldModel(layout), 0), torch.Generator().manual_seed(0)
    for weight in model.decoder.parameters():
        weight.data = torch.randn(weight.shape, generator=chance) * 0.1
    return model


def test_a_decoder_makes_of_a_square_what_it_makes_of_the_frame() -> None:
    model, chance = shaken(LAYOUT), torch.Generator().manual_seed(1)
    crops = Crops(LAYOUT, 8)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=chance)

    n, tokens = 3, LAYOUT.tokens
    noisy, context = some(n, tokens, LAYOUT.patch_dim), some(n, tokens, LAYOUT.dim)
    view, t, action = some(n, tokens, LAYOUT.view_dim), torch.rand(n, generator=chance), torch.tensor([0, 3, 5])
    still = np.zeros((n, LAYOUT.rows, LAYOUT.columns), bool)
    squares = torch.from_numpy(crops.choose(np.random.default_rng(0), still))
    with torch.no_grad():
        whole = cut(model.decoder(noisy, t, context, view, action), squares)
        given = (cut(one, squares) for one in (noisy, context, view))
        x, told, seen = given
        square = crops.within(model).decoder(x, t, told, seen, action)
    middle = torch.arange(64).view(8, 8)[3:5, 3:5].flatten()  # no padding of the square reaches so far
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(square[:, middle], whole[:, middle], rtol=1e-4, atol=1e-5)
    assert model.config is model.decoder.config is LAYOUT, "the frame's own decoder is as it was"
    assert all(a is b for a, b in zip(crops.within(model).parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("patch", "squares", "held", "inside"),
    [
        (10, 3 * 5, 2 * 2, 2 / 3 * 2 / 3),  # every other row and column; of weights 1, 2 on each axis, 2 lies inside
        (8, 7 * 12, 4 * 4, 2 / 3 * 2 / 3),  # weights 1, 2, 2, 1
    ],
)
def test_squares_lie_around_what_has_moved(patch: int, squares: int, held: int, inside: float) -> None:
    layout = replace(LAYOUT, patch=patch)
    crops, n = Crops(layout, 4), 4000
    row, column = 4, 6
    film = torch.full((4, layout.tokens, layout.patch_dim), 90, dtype=torch.uint8)
    film[2, row * layout.columns + column, 7] = 200
    film[2, 20, :] += 5  # trembles
    still, none, busy = crops.busy_frames(unpatchify(film, layout).numpy())[:, None]
    assert busy.sum() == 1 and busy[0, row, column] and not still.any() and not none.any()
    found = places(crops.choose(np.random.default_rng(0), busy.repeat(n, 0)), crops)
    sees = (abs(row - found[:, 0] - 1.5) < 2) & (abs(column - found[:, 1] - 1.5) < 2)
    assert sees.mean() == pytest.approx(1 - ANYWHERE * (1 - held / squares), abs=0.015)
    inner = (abs(row - found[:, 0] - 1.5) < 1) & (abs(column - found[:, 1] - 1.5) < 1)
    assert inner.mean() > 0.9 * inside * sees.mean()


@pytest.mark.parametrize("side", [4, 8])
def test_a_square_lies_around_a_patch_as_far_as_the_frame_reaches(side: int) -> None:
    crops = Crops(LAYOUT, side)
    patches = np.arange(96)
    found = places(crops.around(np.random.default_rng(0), patches), crops)
    row, column = np.divmod(patches, 12)
    inside = (row - found[:, 0] >= 0) & (row - found[:, 0] < side) & (column - found[:, 1] >= 0)
    assert (inside & (column - found[:, 1] < side)).all() and not (found % 2).any()
    inner = (column >= side // 2) & (column <= 11 - side // 2) & (row >= side // 2) & (row <= 7 - side // 2)
    off = column[inner] - found[inner, 1] - (side - 1) / 2
    assert side == 8 or (len(off) and abs(off).max() <= 1.5)


def test_they_lie_anywhere_where_nothing_has() -> None:
    crops, n = Crops(LAYOUT, 4), 9000
    found = places(crops.choose(np.random.default_rng(0), np.zeros((n, 8, 12), bool)), crops)
    often = np.unique(found, axis=0, return_counts=True)[1]
    assert len(often) == 15 and often.min() > 0.8 * n / 15 and often.max() < 1.2 * n / 15
    assert not (found % 2).any(), "half of a coarse cell away from where the frame has one"


def test_squares_as_large_as_the_frame_are_the_frame(pong_data: Dataset) -> None:
    """And smaller ones take fewer pixels of the same frames."""
    layout = replace(LAYOUT, width=80, patch=20)
    model, store = shaken(layout), ClipStore(pong_data, pong_data.train, 8)
    losses = {}
    for crop in (None, 4, 2):
        how = LossConfig(draws=2, noise_shift=5.0, crop=crop, own_share=0.0)
        batch = make_batch(store, layout, how, 0, 0, range(2))
        assert batch.noise.shape == (2, 2, 7, (crop or 4) ** 2, layout.patch_dim)
        assert batch.squares.shape == (2, 7, (crop or 0) ** 2)
        batch.noise[:] = 0.3  # else drawn after the squares
        if crop:
            assert len(places(batch.squares.flatten(0, 1).numpy(), Crops(layout, crop))) == 14
        loss, _ = Objective(model, how, torch.float32, False).loss(batch, model.see(batch.frames, torch.float32))
        weights = [p for p in model.parameters() if p.requires_grad]
        losses[crop] = loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)
    whole, same, part = (losses[crop] for crop in (None, 4, 2))
    torch.testing.assert_close(same[0], whole[0])
    for one, other in zip(same[1], whole[1], strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert part[0] != whole[0]


@pytest.mark.parametrize(
    ("layout", "side", "message"),
    [
        (replace(LAYOUT, decoder="tokens"), 4, r"not model\.decoder=tokens"),
        (LAYOUT, 9, "crop=9 is not between 1 and a frame's 8 patches"),
        (LAYOUT, 3, "3 patches of 10 pixels are no multiple of 4 pixels"),
    ],
)
def test_impossible_squares_are_refused(layout: ModelConfig, side: int, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Crops(layout, side)
