"""An auxiliary task for the encoder: what the last reward was, and how long ago."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import ModelConfig


class Recall(nn.Module):
    """How well tokens tell what the last reward was and how long ago: an auxiliary task (arXiv 1611.05397).

    What comes a certain time after a reward (Pong serves 32 ticks after a point) is one patch of one frame in some
    hundreds, and no run learned it from that alone: that a ball left, when that was, and that the middle of the field
    is to hear of it, each earn nothing without the others. This asks for all but the last in every frame after a
    reward. What tokens are compared with is a fixed code, so that nothing is added to a world.

    Args:
        config: Rewards that are older than its window are not asked for.
    """

    code: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.window = config.window
        code = torch.randn(2 * config.window + 1, config.dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("code", F.normalize(code, dim=1), persistent=False)

    def ages(self, rewards: Tensor) -> Tensor:
        """What is to be told after each action, of rewards int64 [B, T] as signs + 1.

        Returns:
            int64 [B, T]: 0 where none was in the last ``window`` ticks of the clip, else 1 and the ticks since, and
            ``window`` more where it was positive.
        """
        ticks = torch.arange(rewards.shape[1], device=rewards.device).expand_as(rewards)
        last = torch.where(rewards != 1, ticks, -1).cummax(1).values
        age, positive = ticks - last, rewards.gather(1, last.clamp(min=0)) > 1
        return torch.where((last >= 0) & (age < self.window), 1 + age + self.window * positive, 0)

    def forward(self, context: Tensor, rewards: Tensor) -> Tensor:
        """The mean cross-entropy, of contexts [B, T, L, D] of the frames that came with rewards [B, T]."""
        logits = context @ self.code.to(context.dtype).T
        asked = self.ages(rewards)[..., None].expand(logits.shape[:-1])
        return F.cross_entropy(logits.float().flatten(0, -2), asked.flatten())
