"""`compile: true` is what trains by default: the compiled loss has the gradient of the plain one, in every shape."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.model.config import ModelConfig, MultiScaleConfig
from worldsim.model.designs import Design
from worldsim.model.dit import wake
from worldsim.model.world_model import WorldModel
from worldsim.training.batches import make_batch
from worldsim.training.forcing import Forcing, ForcingObjective
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective

pytestmark = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")

PLAIN = ModelConfig(6, 80, 80, 20, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=6)
TWO_SCALES = replace(PLAIN, multiscale=MultiScaleConfig(near=3, cone=0.5, pool=1, stride=2))
CASES = {"convolutions": (PLAIN, None), "squares of frames": (PLAIN, 2), "two scales": (TWO_SCALES, None)}


@pytest.mark.parametrize(("shape", "crop"), CASES.values(), ids=CASES.keys())
def test_the_compiled_loss_has_the_gradient_of_the_plain_one(
    shape: ModelConfig, crop: int | None, pong_data: Dataset
) -> None:
    torch.manual_seed(0)
    model, config = WorldModel(shape), LossConfig(draws=2, noise_shift=5.0, own_share=0.5, crop=crop)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    batch = make_batch(ClipStore(pong_data, pong_data.train, 12), shape, config, 0, 0, range(2))
    found = []
    for compiled in (False, True):
        objective = Objective(model, config, torch.float32, compiled)
        own = [1] if (shape, crop) == CASES["convolutions"] else []  # compiling takes half a minute for each
        seen = objective.show(batch, own)
        loss, _ = objective.loss(batch, objective.show(batch))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        found.append((seen, loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)))
    (shown, plain, expected), (shown_too, told, gradients) = found
    assert (shown - shown_too).abs().max() < 2.5 / 127.5, (
        "frames are rounded, a sum in another order may be rounded away"
    )
    torch.testing.assert_close(told, plain, rtol=1e-4, atol=1e-6)
    reached = 0
    for one, other in zip(gradients, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            reached += int(other.abs().max() > 0)
            assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6
    assert reached > 0.9 * sum(one is not None for one in expected)


def test_the_compiled_error_of_chunks_given_clean_ones_has_the_gradient_of_the_plain_one(pong_data: Dataset) -> None:
    """The one of the other designs that PyTorch's compiler has failed at."""
    forcing = Forcing(Design.parse("dit:4"), PLAIN, "teacher", 3.0)
    torch.manual_seed(0)
    network = forcing.design.make(PLAIN)
    network.blocks = torch.nn.ModuleList()  # which take a minute to compile
    wake(network, 1)
    store = ClipStore(pong_data, pong_data.train, 12)
    batch = forcing.batch(store, 0, 0, range(2), torch.device("cpu"))
    found = []
    for compiled in (False, True):
        loss = ForcingObjective(network, forcing, 16.0, torch.float32, compiled).loss(batch)
        weights = [*network.patches.parameters(), *network.out.parameters()]
        found.append((loss.detach(), torch.autograd.grad(loss, weights)))
    (plain, expected), (told, gradients) = found
    torch.testing.assert_close(told, plain, rtol=1e-4, atol=1e-6)
    for one, other in zip(gradients, expected, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6
