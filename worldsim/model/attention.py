"""Attention within a frame and along time, and the MLP: the parts every design shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.ages import recency, waves


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Plain matmul-softmax attention over [..., S, hd], with a bias [..., S, S] on the scores.

    For the short sequences here its backward pass is several times faster on a CPU than that of the fused kernel.
    """
    return weigh(query, key, bias).to(value.dtype) @ value


def weigh(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax weights, float32 [..., S, S], of :func:`attend`."""
    scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1, dtype=torch.float32)


class RMSNorm(nn.RMSNorm):
    """``x / rms(x) * weight`` over the last dimension.

    Without gradients in few kernels, in place: PyTorch has no fused one for a CPU, and its composite took a fifth of a
    bfloat16 tick of 16 rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
        scaled = x / rms.clamp_min_((self.eps or 0.0) ** 0.5)
        return scaled if self.weight is None else scaled.mul_(self.weight)


class GridConv(nn.Module):
    """3x3 depthwise convolution on the token grid, added to its input.

    Objects move locally: without it a ball shows up as copies one patch apart.
    """

    def __init__(self, dim: int, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.weight = nn.Parameter(torch.empty(dim, 1, 3, 3).uniform_(-1 / 3, 1 / 3))

    def forward(self, x: Tensor) -> Tensor:  # [N, L, D] -> [N, L, D]
        n, length, dim = x.shape
        grid = x.view(n, self.rows, self.columns, dim).permute(0, 3, 1, 2)  # a channels-last view
        grid = F.conv2d(grid, self.weight.to(x.dtype), padding=1, groups=dim)
        return x + grid.permute(0, 2, 3, 1).reshape(n, length, dim)


class SpatialAttention(nn.Module):
    """Attention among the tokens of one frame, with QK-norm and a depthwise convolution before it."""

    def __init__(self, dim: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.heads = heads
        self.conv = GridConv(dim, rows, columns)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_norm = RMSNorm(dim // heads, eps=1e-6)
        self.key_norm = RMSNorm(dim // heads, eps=1e-6)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, L, D] -> [N, L, D]
        n, length, dim = x.shape
        qkv = self.qkv(self.conv(x)).view(n, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x [N, h, L, hd]
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        mixed = attend(query, key, value) if self.training else F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(n, length, dim))


class TemporalAttention(nn.Module):
    """Causal attention over the last ``window`` frames at the same position, with QK-norm.

    Positions along time enter as one learned bias per head and age (0 = this frame ... window - 1), so a roll-out has
    no longest length and nothing that grows with it. The band is the same in :meth:`forward` (whole clips) and
    :meth:`step` (ring cache), which makes streaming compute what training computed.

    Args:
        dim, heads: Of tokens.
        window: The frames before a chunk that its frames see, and one.
        chunk: Frames that see each other, also those after them: frame i sees frame j of no later chunk,
            j // chunk <= i // chunk (CausVid, arXiv 2412.07772). With 1 the attention is causal; with as many as a clip
            has it is bidirectional.
        tap: The age that one head begins to look around, see :func:`~worldsim.model.ages.recency`.
        age_dim: So many values of each head are also told how old what it looks at is, by a vector for each age that is
            added to what is there (Shaw et al., arXiv 1803.02155, equation 3): weights alone tell that something was,
            and its age to a few ticks (docs/experiments/2026-11-27-eighteenth-pong.md). Even; of chunks of one frame.
    """

    def __init__(
        self, dim: int, heads: int, window: int, chunk: int = 1, tap: int | None = None, age_dim: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.window, self.chunk = heads, window, chunk
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_norm = RMSNorm(dim // heads, eps=1e-6)
        self.key_norm = RMSNorm(dim // heads, eps=1e-6)
        # From age 1 - chunk on.
        self.age_bias = nn.Parameter(recency(heads, torch.arange(1 - chunk, window + chunk - 1), tap))
        self.age_value = nn.Parameter(waves(window, age_dim).repeat(heads, 1, 1)) if age_dim else None
        self.out = nn.Linear(dim, dim, bias=False)
        self.scale = (dim // heads) ** -0.5

    def forward(self, x: Tensor, band: Tensor | None = None) -> Tensor:  # [B, T, L, D] -> [B, T, L, D]
        """Attended tokens; ``band`` [h, T, T] in place of :meth:`band`."""
        query, key, value = self._projected(x)
        bias = self.band(x.shape[1]) if band is None else band
        weights = weigh(query, key, bias.to(value.dtype)).to(value.dtype)
        mixed = weights @ value  # [B, L, h, T, hd]
        if self.age_value is not None:
            mixed = _told(mixed, self._ages(weights))
        return self.out(mixed.permute(0, 3, 1, 2, 4).reshape(x.shape))

    def _ages(self, weights: Tensor) -> Tensor:
        """The mean of what says how old frames are, [B, L, h, T, age_dim], by weights [B, L, h, T, T]."""
        assert self.age_value is not None
        frame = torch.arange(weights.shape[-1], device=weights.device)
        ages = (frame[:, None] - frame).clamp(0, self.window - 1)
        told = self.age_value[:, ages].to(weights.dtype)  # [h, T, T, age_dim]
        lead = weights.shape[:2]
        mixed = weights.flatten(0, 1).permute(1, 2, 0, 3) @ told  # [h, T, B L, age_dim]
        return mixed.permute(2, 0, 1, 3).unflatten(0, lead)

    def weights(self, x: Tensor, band: Tensor | None = None) -> Tensor:
        """How much each frame looks at each other, [B, L, h, T, T], for looking at; rows sum to 1."""
        query, key, _ = self._projected(x)
        bias = self.band(x.shape[1]) if band is None else band
        scores = (query @ key.transpose(-1, -2)) * self.scale + bias.to(query.dtype)
        return scores.softmax(-1, dtype=torch.float32)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, keys, and values of whole clips, each [B, L, h, T, hd]."""
        b, t, length, dim = x.shape
        qkv = self.qkv(x).view(b, t, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 4, 1, 5)
        return self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype), value

    def band(self, t: int) -> Tensor:
        """Bias [h, T, T]: ``age_bias`` where a frame may look, ``-inf`` for later chunks and past the window."""
        frame = torch.arange(t, device=self.age_bias.device)
        first = frame // self.chunk * self.chunk  # of each frame's chunk
        since = first[:, None] - frame[None, :]
        seen = (since > -self.chunk) & (since < self.window)
        age = frame[:, None] - frame[None, :]
        at = (age + self.chunk - 1).clamp(0, self.age_bias.shape[1] - 1)
        return self.age_bias[:, at].masked_fill(~seen, float("-inf"))

    def teacher_band(self, t: int) -> Tensor:
        """Bias [h, 2 t, 2 t] of clean frames and, after them, as many noisy ones of the same clip.

        Clean ones see each other as in :meth:`band`; noisy ones see the clean ones of earlier chunks, and of their own
        chunk the noisy ones. That is what a roll-out shows them (teacher forcing, CausVid, arXiv 2412.07772).
        """
        band = self.band(t)
        chunk = torch.arange(t, device=band.device) // self.chunk
        own = chunk[:, None] == chunk[None, :]
        hidden = torch.full_like(band, float("-inf"))
        noisy = torch.cat((band.masked_fill(own, float("-inf")), band.masked_fill(~own, float("-inf"))), -1)
        return torch.cat((torch.cat((band, hidden), -1), noisy), -2)

    def step(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One frame against its cache; pure, the caller writes the ring.

        Args:
            x: This frame's tokens [B, L, D].
            keys, values: Past frames [B, h, L, W-1, hd], in any order. Attention is computed in their dtype: on a CPU
                products this small are faster in float32, whatever the tokens are in.
            bias: [B, h, 1 + age_dim, W-1], the age bias of each slot, ``-inf`` for an empty one, and what says its age.

        Returns:
            Attended tokens [B, L, D] and this frame's key and value [B, h, L, hd], in the dtype of the past ones.
        """
        b, length, dim = x.shape
        qkv = self.qkv(x).view(b, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x [B, h, L, hd]
        query = self.query_norm(query).to(keys.dtype) * self.scale
        key, value = self.key_norm(key).to(keys.dtype), value.to(keys.dtype)
        bias = bias.to(keys.dtype)
        past = (query.unsqueeze(-2) @ keys.transpose(-1, -2)).squeeze(-2) + bias[:, :, :1]  # [B, h, L, W-1]
        now = (query * key).sum(-1, keepdim=True) + self.age_bias[:, :1, None].to(keys.dtype)
        # The present is joined to the scores, not to the cache: concatenating the cache would copy it every frame.
        weights = torch.cat((past, now), -1).softmax(-1, dtype=torch.float32).to(value.dtype)
        mixed = (weights[..., None, :-1] @ values).squeeze(-2) + weights[..., -1:] * value  # [B, h, L, hd]
        if self.age_value is not None:
            now_told = self.age_value[:, :1].to(weights.dtype)  # [h, 1, age_dim]
            mixed = _told(mixed, weights[..., :-1] @ bias[:, :, 1:].transpose(-1, -2) + weights[..., -1:] * now_told)
        return self.out(mixed.transpose(1, 2).reshape(b, length, dim).to(x.dtype)), key, value

    def step_chunk(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk against the cache; pure, the caller writes the ring.

        Args:
            x: The chunk's tokens [B, k, L, D]; k is ``chunk``.
            keys, values: Past frames [B, h, L, S, hd], in any order; S is ``window - 1``.
            bias: [B, h, k, S], see :func:`ring_bias`.

        Returns:
            Attended tokens [B, k, L, D] and the chunk's keys and values [B, h, L, k, hd].
        """
        b, k, length, dim = x.shape
        qkv = self.qkv(x).view(b, k, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(3, 0, 4, 2, 1, 5)  # 3 x [B, h, L, k, hd]
        query = self.query_norm(query).to(keys.dtype) * self.scale
        key, value = self.key_norm(key).to(keys.dtype), value.to(keys.dtype)
        past = query @ keys.transpose(-1, -2) + bias.unsqueeze(2).to(keys.dtype)  # [B, h, L, k, S]
        now = query @ key.transpose(-1, -2) + self.band(k)[:, None].to(keys.dtype)
        weights = torch.cat((past, now), -1).softmax(-1, dtype=torch.float32).to(value.dtype)
        slots = keys.shape[-2]
        mixed = weights[..., :slots] @ values + weights[..., slots:] @ value  # [B, h, L, k, hd]
        return self.out(mixed.permute(0, 3, 2, 1, 4).reshape(b, k, length, dim).to(x.dtype)), key, value


def _told(mixed: Tensor, ages: Tensor) -> Tensor:
    """Values [..., hd] with ages [..., age_dim] added to the first of them."""
    told = ages.shape[-1]
    return torch.cat((mixed[..., :told] + ages, mixed[..., told:]), -1)


def ring_bias(layers: Sequence[TemporalAttention], age: Tensor) -> Tensor:
    """Bias of a ring's slots by their age, for :meth:`TemporalAttention.step` of every layer.

    Args:
        layers: The attentions along time, in order.
        age: int64 [B, W-1]: 1 ... W-1 before the first frame of the chunk, or 0 for an empty slot.

    Returns:
        [layers, B, h, k, W-1] for the k frames of a chunk, ``-inf`` for an empty slot; with vectors for ages
        [layers, B, h, 1 + age_dim, W-1], these behind the bias.
    """
    tables = torch.stack([layer.age_bias for layer in layers])  # [layers, h, W + 2 (k - 1)]
    chunk = layers[0].chunk
    ages = age[:, None] + torch.arange(chunk, device=age.device)[:, None] + chunk - 1  # [B, k, W-1]
    bias = tables[:, :, ages].permute(0, 2, 1, 3, 4)  # [layers, B, h, k, W-1]
    bias = bias.masked_fill((age == 0)[None, :, None, None], float("-inf"))
    vectors: list[Tensor] = [layer.age_value for layer in layers if layer.age_value is not None]
    if not vectors:
        return bias
    told = torch.stack(vectors)[:, :, age]  # [layers, h, B, W-1, age_dim]
    return torch.cat((bias, told.permute(0, 2, 1, 4, 3).to(bias.dtype)), 3)


class MLP(nn.Module):
    """Two linear maps with a squared ReLU between them (Primer, arXiv 2109.08668).

    As good as a GELU here and, on a CPU, without its exponentials: those were 18 % of a training step.
    """

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, ratio * dim, bias=False)
        self.down = nn.Linear(ratio * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())
