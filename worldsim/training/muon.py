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
    results with ``dtype=torch.bfloat16``, up to its rounding: matrices of one shape move together here.

    Args:
        weights: Matrices, or groups of them.
        dtype: Of the orthogonalisation.
        lr: Learning rate, times the root of a matrix's height over its width where it is higher than wide.
        weight_decay: Decoupled.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        dtype: torch.dtype,
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__(weights, lr=lr, weight_decay=weight_decay, adjust_lr_fn="original")
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply the gradients; weights without one stay as they are."""
        loss = closure() if closure else None
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for (high, wide), weights in alike.items():
                told = group["ns_coefficients"], group["ns_steps"], group["eps"]
                updates = orthogonal(torch.stack([self._update(w, group["momentum"]) for w in weights]), *told)
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * math.sqrt(max(1.0, high / wide))
                torch._foreach_add_(weights, list(updates.to(weights[0].dtype).unbind(0)), alpha=-rate)
        return loss

    def _update(self, weight: Tensor, momentum: float) -> Tensor:
        """Nesterov's, in the format of the products."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum).to(self._dtype)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About the nearest matrices whose singular values are all one, by the quintic Newton-Schulz iteration.

    Args:
        matrices: [N, A, B]. Together their products take a fraction of the time that they take one after the other.
        coefficients: Of x, x^3 and x^5.
        steps: Iterations.
        eps: Least norm that is divided by.

    Returns:
        [N, A, B], with singular values between about 0.7 and 1.2.
    """
    first, third, fifth = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.mT if tall else x
