"""The optimisers: Muon in a number format of choice is PyTorch's Muon."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldsim.training.muon import Muon, orthogonal

SHAPES = ((12, 12), (48, 12), (12, 48))
QUINTIC = (3.4445, -4.7750, 2.0315)


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
