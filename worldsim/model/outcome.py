"""Reward and end of episode, read from the encoder's tokens of the frame that was just made."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OutcomeHead(nn.Module):
    """Sign of the reward (3-way: -1, 0, +1) and termination (2-way) from one frame's context.

    Tokens are pooled by a few learned attentions, so that an event anywhere in the frame can be heard.
    """

    def __init__(self, dim: int, poolings: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Linear(dim, dim)
        self.weights = nn.Linear(dim, poolings)
        self.pooled = nn.Linear(poolings * dim, dim)
        self.reward = nn.Linear(dim, 3)
        self.end = nn.Linear(dim, 2)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context [..., L, D] of obs[t+1] to the logits of reward[t] [..., 3] and terminated[t] [..., 2]."""
        weights = (
            self.weights(context).softmax(-2, dtype=torch.float32).to(context.dtype)
        )  # [..., L, poolings]
        pooled = weights.transpose(-1, -2) @ F.silu(self.tokens(context))  # [..., poolings, D]
        pooled = F.silu(self.pooled(pooled.flatten(-2)))
        return self.reward(pooled), self.end(pooled)
