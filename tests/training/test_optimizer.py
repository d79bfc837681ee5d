"""The optimisers: Muon in a number format of choice is PyTorch's Muon; what learns slower than the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from worldsim.model.config import ModelConfig
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.training.muon import Muon, orthogonal
from worldsim.training.optimizer import Optimizer, OptimizerConfig, schedule, share, split_parameters

SHAPES = ((12, 12), (48, 12), (12, 48))
QUINTIC = (3.4445, -4.7750, 2.0315)
SMALL = ModelConfig(3, 40, 40, 10, extrapolated=0, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8)


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def moved(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int = 4) -> list[Tensor]:
    for step in range(steps):
        for weight, gradient in zip(weights, matrices(100 + step), strict=True):
            weight.grad = gradient.detach().clone()
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def test_muon_in_bfloat16_is_pytorchs() -> None:
    ours, theirs = matrices(0), matrices(0)
    a = Muon(ours, torch.bfloat16, lr=0.02, weight_decay=0.05)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05, adjust_lr_fn="original")
    for mine, other in zip(moved(a, ours), moved(b, theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=0)  # of steps of 0.02, in another order of sums
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(a.state[mine]["momentum_buffer"], b.state[other]["momentum_buffer"])


def test_muon_in_float32_differs_from_it_by_rounding() -> None:
    first, second = matrices(0), matrices(0)
    exact = moved(Muon(first, torch.float32, lr=0.02, weight_decay=0.05), first)
    rounded = moved(Muon(second, torch.bfloat16, lr=0.02, weight_decay=0.05), second)
    for begun, mine, other in zip(matrices(0), exact, rounded, strict=True):
        assert not torch.equal(mine, other)
        assert (mine - other).norm() < 0.05 * (mine - begun).norm()


def test_a_matrix_made_orthogonal_has_singular_values_near_one() -> None:
    for matrix in matrices(3):
        values = torch.linalg.svdvals(orthogonal(matrix.detach()[None], QUINTIC, 5, 1e-7))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_weights_without_a_gradient_stay() -> None:
    weights = matrices(0)
    optimizer = Muon(weights, torch.float32, lr=0.02, weight_decay=0.05)
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    assert torch.equal(weights[1], matrices(0)[1])
    assert not torch.equal(weights[0], matrices(0)[0])


def test_maps_of_steady_inputs_learn_slower_the_more_of_them_there_are() -> None:
    model = WorldModel(SMALL)
    told = {name: share(name, weight) for name, weight in split_parameters(model)[1]}
    assert told["decoder.context.weight"] == told["decoder.modulation.0.weight"] == 0.5
    assert told["encoder.patches.weight"] == 16 / model.config.view_dim
    assert {told[name] for name in ("decoder.seen.weight", "decoder.out.weight", "encoder.position")} == {1.0}
    assert told["encoder.blocks.0.time.age_bias"] == 30.0  # logits: they differ by units
    whole = ("heads.context.weight", "decoder.modulation.0.bias", "encoder.action.weight")
    assert {told[name] for name in whole} == {1.0}
    noisy = WorldModel(replace(SMALL, decoder="tokens")), DiT(SMALL)  # noise is not steady
    for network, name in zip(noisy, ("decoder.patches.weight", "patches.weight"), strict=True):
        assert share(name, network.get_parameter(name)) == 1.0
    varied = WorldModel(replace(SMALL, decoder="tokens", standardised=True))  # nor is what is away from the mean frame
    before = varied.encoder.patches.weight.detach().clone()
    for weight in varied.parameters():
        weight.grad = torch.ones_like(weight)
    Optimizer(varied, OptimizerConfig(adam_lr=0.01)).step(1.0)
    moved = torch.full_like(before, 0.01)
    torch.testing.assert_close(before - varied.encoder.patches.weight, moved, rtol=1e-3, atol=1e-6)
    optimizer = Optimizer(model, OptimizerConfig(adam_lr=0.01))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step(1.0)
    for name, weight in model.named_parameters():
        if name in told:
            moved = torch.full_like(weight, 0.01 * told[name])
            torch.testing.assert_close(before[name] - weight, moved, rtol=1e-3, atol=1e-6)
    again = Optimizer(model, OptimizerConfig(adam_lr=0.01))
    again.load_state(optimizer.state())
    assert again.state().keys() == optimizer.state().keys()


def test_the_decoder_can_learn_at_a_share_of_the_rates_but_for_what_it_makes_of_contexts() -> None:
    moves = []
    for decoder in (1.0, 0.25):
        torch.manual_seed(0)
        model = WorldModel(SMALL)
        optimizer = Optimizer(model, OptimizerConfig(weight_decay=0.0))
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step(1.0, decoder=decoder)
        moves.append({name: weight.detach() - before[name] for name, weight in model.named_parameters()})
    for name, move in moves[0].items():
        slower = name.startswith("decoder.") and name != "decoder.context.weight"
        torch.testing.assert_close(moves[1][name], move * (0.25 if slower else 1.0), rtol=1e-3, atol=1e-6)


def test_a_decoder_of_convolutions_begins_the_same_everywhere() -> None:
    model = WorldModel(SMALL)
    context = torch.randn(1, SMALL.tokens, SMALL.dim)
    scene = model.scene(context, torch.ones(1, SMALL.tokens, SMALL.view_dim))[0, 3:-3, 3:-3]
    torch.testing.assert_close(scene, scene[:1, :1].expand_as(scene))


def test_muon_takes_the_blocks_matrices_only() -> None:
    muon, adam = split_parameters(WorldModel(SMALL))
    assert all(parameter.ndim == 2 and ".blocks." in name for name, parameter in muon)
    assert {"encoder.position", "decoder.out.weight", "encoder.blocks.0.time.age_bias"} <= {
        name for name, _ in adam
    }
    assert all(any(part in name for name, _ in muon) for part in ("qkv", "mlp.up", "decoder.blocks.0.first"))


def test_the_schedule_warms_up_holds_and_falls_to_zero() -> None:
    config = OptimizerConfig(warmup=10, decay=0.5)
    assert schedule(0, 100, config) == pytest.approx(0.1)
    assert schedule(30, 100, config) == 1
    assert schedule(75, 100, config) == pytest.approx(0.5)
    assert schedule(100, 100, config) == 0
