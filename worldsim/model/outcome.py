"""Reward and end of episode, read from the frame that was just made and the encoder's tokens of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import ModelConfig


class Pool(nn.Module):
    """A frame's tokens [..., L, C] to one [..., C] by a few learned attentions: an event may be anywhere in it."""

    def __init__(self, width: int, poolings: int) -> None:
        super().__init__()
        self.weights = nn.Linear(width, poolings)
        self.pooled = nn.Linear(poolings * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.weights(tokens).softmax(-2, dtype=torch.float32).to(tokens.dtype)  # [..., L, poolings]
        return F.silu(self.pooled((weights.transpose(-1, -2) @ tokens).flatten(-2)))


class EndHead(nn.Module):
    """Termination (2-way), from what changes and the encoder's tokens, by layers of its own.

    A ball that leaves is two pixels, and what the picture keeps showing is most of a view, and the loudest. A head that
    saw all of it, and shared its layers with what tells points, hardly found where a life is lost
    (docs/experiments/2026-11-30-thirty-eighth-lives.md).
    """

    LOUDER = 16.0  # changes are given so many times as large (docs/experiments, page 39)

    def __init__(self, config: ModelConfig, width: int, poolings: int) -> None:
        super().__init__()
        self.still = config.seen_dim
        self.change = nn.Linear(config.view_dim - self.still, width)
        self.context = nn.Linear(config.dim, width, bias=False)
        self.said = nn.Sequential(Pool(width, poolings), nn.Linear(width, 2))

    def forward(self, context: Tensor, view: Tensor) -> Tensor:
        """Logits [..., 2] from tokens [..., L, D] and a view [..., L, V]."""
        changes = self.change(self.LOUDER * view[..., self.still :])
        logits: Tensor = self.said(F.silu(changes + self.context(context)))
        return logits


class OutcomeHead(nn.Module):
    """Sign of the reward (3-way: -1, 0, +1) and termination (2-way) of one tick.

    With ``recency`` also whether the last reward is at most ``reward_ages`` ticks old, and its sign (3-way: -1, none,
    +1): a field without a ball says so, even where nobody has been told of a reward.

    It sees the frame itself beside the encoder's tokens, because those keep what foretells the next frame, and a ball
    that leaves the picture foretells nothing. And it is told the sign of the last tick's reward, because a point that
    shows for two ticks counts once: without that, it gives each of the two a half, and says neither.

    With ``own_end`` termination is told by :class:`EndHead`.

    Recency is told from the frame and its changes alone. What an encoder makes of a ball that vanished in flight it was
    never taught, and the head that also read that said "recent" of balls in play: then there were two
    (docs/experiments/2026-11-28-twenty-sixth-pong.md).
    """

    def __init__(self, config: ModelConfig, poolings: int = 4) -> None:
        super().__init__()
        width = max(1, config.dim // 2)
        self.context = nn.Linear(config.dim, width)
        self.view = nn.Linear(config.view_dim, width, bias=False)
        self.last = nn.Embedding(3, width)
        self.pool = Pool(width, poolings)
        self.reward = nn.Linear(width, 3)
        self.end: nn.Module = EndHead(config, width, poolings) if config.own_end else nn.Linear(width, 2)
        self.recent = nn.Sequential(Pool(width, poolings), nn.Linear(width, 3)) if config.recency else None

    def forward(self, context: Tensor, view: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        """Logits of reward[t] [..., 3], of terminated[t] [..., 2] and, with ``recency``, of the last reward [..., 3].

        Args:
            context: [..., L, D], the encoder's tokens of obs[t+1].
            view: [..., L, V] of obs[t+1], see :meth:`~worldsim.model.world_model.WorldModel.view`.
            last: int64 [...], sign of reward[t-1], + 1.
        """
        seen = self.view(view)
        pooled = self.pool(F.silu(self.context(context) + seen + self.last(last).unsqueeze(-2)))
        end = self.end(context, view) if isinstance(self.end, EndHead) else self.end(pooled)
        return self.reward(pooled), end, *(() if self.recent is None else (self.recent(F.silu(seen)),))
