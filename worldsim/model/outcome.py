"""Reward and end of episode, read from the encoder's tokens of the frame that was just made."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OutcomeHead(nn.Module):
    """Sign of the reward (3-way: -1, 0, +1) and termination (2-way) from one frame's context."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(dim, dim)
        self.pooled = nn.Linear(2 * dim, dim)
        self.reward = nn.Linear(dim, 3)
        self.end = nn.Linear(dim, 2)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context [..., L, D] of obs[t+1] to the logits of reward[t] [..., 3] and terminated[t] [..., 2]."""
        tokens = F.silu(self.tokens(context))
        # The maximum sees an event anywhere in the frame, the mean sees the state of all of it.
        pooled = F.silu(self.pooled(torch.cat((tokens.mean(-2), tokens.amax(-2)), -1)))
        return self.reward(pooled), self.end(pooled)
