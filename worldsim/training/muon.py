"""Muon for machines that have no bfloat16: PyTorch's, with the number format of its products to choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """Momentum orthogonalised by Newton-Schulz (https://kellerjordan.github.io/posts/muon/), computed in ``dtype``.

    PyTorch's own computes in bfloat16 whatever the weights are in. Where that is emulated, its products took most of a
    training step (docs/experiments/2026-11-22-eleventh-pong.md). State and settings are PyTorch's, and so are the
    results with ``dtype=torch.bfloat16``, to the bit.

    Args:
        weights: Matrices.
        dtype: Of the orthogonalisation.
        lr: Learning rate, times the root of a matrix's height over its width where it is higher than wide.
        weight_decay: Decoupled.
    """

    def __init__(self, weights: Iterable[nn.Parameter], dtype: torch.dtype, *, lr: float, weight_decay: float) -> None:
        super().__init__(weights, lr=lr, weight_decay=weight_decay, adjust_lr_fn="original")
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply the gradients; weights without one stay as they are."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[weight], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(average, momentum)  # Nesterov's
        update = orthogonal(update.to(self._dtype), group["ns_coefficients"], group["ns_steps"], group["eps"])
        high, wide = weight.shape
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, high / wide)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About the nearest matrix whose singular values are all one, by the quintic Newton-Schulz iteration.

    Args:
        matrix: [A, B].
        coefficients: Of x, x^3 and x^5.
        steps: Iterations.
        eps: Least norm that is divided by.

    Returns:
        [A, B], with singular values between about 0.7 and 1.2.
    """
    first, third, fifth = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
