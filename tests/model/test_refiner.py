"""What tokens foretell, gone over by convolutions: nothing at first, and then the same in all places."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldsim.model.config import ModelConfig
from worldsim.model.dit import DiT, wake
from worldsim.model.patches import from_cells, patchify, to_cells, unpatchify
from worldsim.model.refiner import Refiner
from worldsim.model.world_model import WorldModel, init_weights

SMALL = ModelConfig(
    3, height=16, width=24, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder="tokens", window=4
)
REFINED = replace(SMALL, refined=True)


def test_cells_are_squares_of_two_pixels_where_they_lie() -> None:
    frames = torch.rand(2, 16, 24, 3)
    cells = to_cells(patchify(frames, SMALL), SMALL, 3, 2)
    assert cells.shape == (2, 12, 8, 12)
    torch.testing.assert_close(cells[1, :, 5, 7], frames[1, 10:12, 14:16].flatten())
    torch.testing.assert_close(unpatchify(from_cells(cells, SMALL, 3, 2), SMALL), frames)


@torch.no_grad()
def test_at_first_it_adds_nothing_and_then_it_sees_the_noisy_frame_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    large = replace(REFINED, height=64, width=64)  # so that no edge is in sight of what is changed
    refiner = Refiner(large)
    made, noisy = torch.rand(2, 1, large.tokens, large.patch_dim)
    tokens, told = torch.rand(1, large.tokens, large.dim), torch.zeros(1, refiner.modulations)
    sight, seen = refiner.look(noisy)
    assert torch.equal(refiner(made, tokens, sight, told), made)
    assert seen.shape == tokens.shape and not seen.any()
    wake(refiner, seed=1, scale=0.3)
    refiner.hints.weight.zero_()
    nothing = torch.zeros_like(made)

    def drawn(row: int, column: int) -> torch.Tensor:
        frame = torch.zeros(1, 64, 64, 3)
        frame[:, row, column] = 1
        return unpatchify(refiner(nothing, tokens, refiner.look(patchify(frame, large))[0], told), large)

    one, other = drawn(30, 32), drawn(32, 34)  # in another patch, and at another place in it
    assert one[0, 28:34, 30:36].abs().max() > 1e-3
    torch.testing.assert_close(one[:, :-2, :-2], other[:, 2:, 2:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tokens_are_told_what_convolutions_see_in_their_patch_and_next_to_it() -> None:
    torch.manual_seed(0)
    refiner = Refiner(REFINED)
    wake(refiner, seed=1, scale=0.3)
    frame = torch.zeros(1, 16, 24, 3)

    def told() -> torch.Tensor:
        return refiner.look(patchify(frame, SMALL))[1].view(SMALL.rows, SMALL.columns, -1)

    nothing = told()
    frame[:, 3, 17] = 1
    row, column = 3 // SMALL.patch, 17 // SMALL.patch
    changes = (told() - nothing).abs().amax(-1) > 1e-4
    assert changes[row, column]
    far = torch.ones_like(changes)
    far[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
    assert not changes[far].any() and far.any()


@pytest.mark.parametrize("design", ["scd", "dit"])
def test_it_begins_as_the_model_without_and_all_of_it_learns(design: str) -> None:
    torch.manual_seed(0)
    t, noisy = torch.tensor([1.0, 0.3]), torch.randn(2, SMALL.tokens, SMALL.patch_dim)
    view, context = torch.randn(2, SMALL.tokens, SMALL.view_dim), torch.randn(2, SMALL.tokens, SMALL.dim)
    plain, refined = (init_weights(WorldModel(of), 3) if design == "scd" else DiT(of) for of in (SMALL, REFINED))
    wake(plain, seed=1)
    refined.load_state_dict(plain.state_dict(), strict=False)

    def foretold(model: torch.nn.Module) -> torch.Tensor:
        if isinstance(model, WorldModel):
            return model.decode(noisy, t, context, view, torch.zeros(2, dtype=torch.int64))
        made: torch.Tensor = model(noisy[:, None], t[:, None], torch.zeros(2, 1, dtype=torch.int64))
        return made[:, 0]

    torch.testing.assert_close(foretold(refined), foretold(plain))
    wake(refined, seed=2)
    foretold(refined).square().sum().backward()
    weights = {name: weight for name, weight in refined.named_parameters() if "refiner" in name}
    assert len(weights) >= 9
    for name, weight in weights.items():
        assert weight.grad is not None and weight.grad.any(), name


def test_patches_that_do_not_divide_into_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="with model.refined, model.patch must be a multiple of 2, not 5"):
        ModelConfig(3, height=20, width=20, patch=5, decoder="tokens", refined=True)
