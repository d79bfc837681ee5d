"""Multi-scale causal attention (MSC): what is near finely and for a short time, whole frames coarsely and for long."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.ages import recency
from worldsim.model.attention import MLP, GridConv, RMSNorm
from worldsim.model.config import ModelConfig, MultiScaleConfig


class MultiScaleAttention(nn.Module):
    """Half of the heads see the tokens near by in the last few frames, half see whole frames, pooled, at a stride.

    The high-resolution branch looks at places within a light cone: the further back a frame lies, the further away may
    be what has come from there. The low-resolution branch looks at all places of the frame itself and of every
    ``stride``-th frame of the last ``window``, averaged over squares of tokens, and is spread back over them. How noisy
    the frame is said to be weighs the heads. The heads of both read the full width, as those of any attention do.

    The cache of a frame is one piece: keys of the near heads [h/2, L, hd], then of the far ones [h/2, places, hd]; see
    :func:`memory_entries`.

    Args:
        config: Of the model; ``config.multiscale`` is there.
        layer: Number of the block. The deeper half of them pools squares of twice the side.
    """

    inside: Tensor
    offset: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        how = multi_scale(config)
        self.how, self.rows, self.columns, self.window = how, config.rows, config.columns, config.window
        self.heads, self.size = config.heads // 2, config.head_dim
        self.pool = how.pooled(layer, config.encoder_layers)
        self.conv = GridConv(config.dim, config.rows, config.columns)
        self.near = nn.Linear(config.dim, 3 * self.heads * self.size, bias=False)
        self.far = nn.Linear(config.dim, 3 * self.heads * self.size, bias=False)
        self.query_norm, self.key_norm = (RMSNorm(self.size, eps=1e-6) for _ in range(2))
        widest = how.reach(how.near - 1)
        self.near_bias = nn.Parameter(torch.zeros(self.heads, how.near, (2 * widest + 1) ** 2))
        self.age_bias = nn.Parameter(recency(self.heads, torch.arange(config.window)))
        self.gate = nn.Embedding(config.context_levels, config.heads)
        nn.init.ones_(self.gate.weight)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        offset, inside = _cone(config, how)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("inside", inside, persistent=False)

    @property
    def places(self) -> int:
        """Pooled tokens of a frame."""
        return (self.rows // self.pool) * (self.columns // self.pool)

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        """Whole clips.

        Args:
            x: [B, T, L, D].
            levels: int64 [B, T], context-noise buckets.

        Returns:
            [B, T, L, D].
        """
        b, t, length, dim = x.shape
        seen = self.conv(x.reshape(b * t, length, dim))
        near = self._near_clip(*self._heads(self.near(seen).view(b, t, length, -1)))
        far = self._far_clip(*self._heads(self.far(self._pooled(seen)).view(b, t, self.places, -1)))
        return self._joined(near, self._spread(far), levels)

    def step(
        self, x: Tensor, level: Tensor, keys: Tensor, values: Tensor, ages: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One frame against its cache; pure, the caller writes it.

        Args:
            x: [B, L, D].
            level: int64 [B].
            keys, values: [B, entries, hd], see :class:`~worldsim.engine.cache.MultiScaleCache`. Attention is computed
                in their dtype.
            ages: int64 [B or 1, near - 1 + slots], of the near slots, then of the far ones; 0 is an empty one.

        Returns:
            Attended tokens [B, L, D], and this frame's keys and values [B, entries of a frame, hd].
        """
        seen, split = self.conv(x), self.heads * (self.how.near - 1) * x.shape[1]
        near_ages, far_ages = ages.tensor_split([self.how.near - 1], 1)
        near, key, value = self._near_step(seen, keys[:, :split], values[:, :split], near_ages)
        end = split + self.heads * far_ages.shape[1] * self.places
        far, far_key, far_value = self._far_step(seen, keys[:, split:end], values[:, split:end], far_ages)
        mixed = self._joined(near.to(x.dtype), self._spread(far.to(x.dtype)), level)
        entries = memory_entries(self.how, x.shape[1], self.heads, self.rows, self.columns)
        return mixed, _padded(key, far_key, entries), _padded(value, far_value, entries)

    def _near_step(self, seen: Tensor, keys: Tensor, values: Tensor, ages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The fine branch's heads [B, h, L, hd] of one frame, and its keys and values; ``ages`` [B or 1, S]."""
        b, length, _ = seen.shape
        query, key, value = (one.to(keys.dtype) for one in self._heads(self.near(seen)))
        table = self._near_table().to(keys.dtype)
        bias = table[:, :, ages].permute(2, 0, 1, 3, 4)  # [B, h, L, S, L]
        bias = bias.masked_fill((ages == 0)[:, None, None, :, None], -torch.inf).flatten(3)
        held, held_values = (one.view(b, self.heads, ages.shape[1] * length, self.size) for one in (keys, values))
        return _two(query, held, held_values, bias, key, value, table[:, :, 0]), key, value

    def _far_step(self, seen: Tensor, keys: Tensor, values: Tensor, ages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coarse branch's heads [B, h, places, hd] of one frame, and its keys and values; ``ages`` [B or 1, N]."""
        query, key, value = (one.to(keys.dtype) for one in self._heads(self.far(self._pooled(seen))))
        bias = self.age_bias.to(keys.dtype)[:, ages.clamp(max=self.window - 1)].transpose(0, 1)  # [B, h, N]
        bias = bias.masked_fill(((ages == 0) | (ages >= self.window))[:, None], -torch.inf)
        bias = bias.repeat_interleave(self.places, -1).unsqueeze(2)
        count = ages.shape[1] * self.places
        held, held_values = (one.view(len(seen), self.heads, count, self.size) for one in (keys, values))
        now = self.age_bias[:, :1, None].to(keys.dtype)
        return _two(query, held, held_values, bias, key, value, now), key, value

    @property
    def spans(self) -> int:
        """Frames that the weights and the cache are for; :attr:`window` may be less, to see what they are worth."""
        return self.age_bias.shape[1]

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled and normed queries, normed keys, and values, each [..., h, L, hd], of [..., L, 3 h hd]."""
        parts = qkv.view(*qkv.shape[:-1], 3, self.heads, self.size)
        query, key, value = (one.transpose(-3, -2) for one in parts.unbind(-3))
        return self.query_norm(query).to(value.dtype) * self.size**-0.5, self.key_norm(key).to(value.dtype), value

    def _pooled(self, seen: Tensor) -> Tensor:
        """Means over squares of tokens, [N, L, D] to [N, places, D]."""
        p = self.pool
        grid = seen.view(len(seen), self.rows // p, p, self.columns // p, p, -1)
        return grid.mean((2, 4)).flatten(1, 2)

    def _spread(self, far: Tensor) -> Tensor:
        """[..., h, places, C] back over all tokens, [..., h, L, C]."""
        p = self.pool
        grid = far.unflatten(-2, (self.rows // p, 1, self.columns // p, 1))
        shape = *far.shape[:-2], self.rows // p, p, self.columns // p, p, far.shape[-1]
        return grid.expand(shape).flatten(-5, -2)

    def _joined(self, near: Tensor, far: Tensor, levels: Tensor) -> Tensor:
        """Heads [..., h/2, L, hd] of both branches, weighed by the noise of the frame [...], to [..., L, D]."""
        gates = self.gate(levels)[..., None, None].to(near.dtype)  # [..., h, 1, 1]
        return self.out((torch.cat((near, far), -3) * gates).transpose(-3, -2).flatten(-2))

    def _near_table(self) -> Tensor:
        """Bias [h, L, frames ago, L] of what a place sees of another so many frames ago; -inf outside the cone."""
        return self.near_bias.flatten(1)[:, self.offset].masked_fill(~self.inside, -torch.inf)

    def weights(self, x: Tensor) -> Tensor:
        """How much each place of a frame looks at each frame, [B, L, h, T, T], for looking at; rows sum to 1."""
        b, t, length, dim = x.shape
        seen = self.conv(x.reshape(b * t, length, dim))
        made = x.new_zeros(b, t, 2 * self.heads, length, t)
        query, key, value = self._heads(self.near(seen).view(b, t, length, -1))
        keys, _, bias = self._recent(key, value)
        near = (query @ keys.transpose(-1, -2) + bias).softmax(-1).unflatten(-1, (-1, length)).sum(-1)
        for ago, share in enumerate(near.flip(-1).unbind(-1)):  # [B, T, h, L]
            made[:, :, : self.heads].diagonal(-ago, 1, 4).copy_(share[:, ago:].permute(0, 2, 3, 1))
        query, key, value = self._heads(self.far(self._pooled(seen)).view(b, t, self.places, -1))
        keys, _, bias, now = self._strided(key, value)
        shares = _joint(query, keys, bias, key, now).unflatten(-1, (-1, self.places)).sum(-1)
        spread = self._spread(shares)  # [B, T, h, L, kept + 1], the last one the frame itself
        made[:, :, self.heads :, :, :: self.how.stride] = spread[..., :-1]
        made[:, :, self.heads :].diagonal(0, 1, 4).add_(spread[..., -1].permute(0, 2, 3, 1))
        return made.permute(0, 3, 2, 1, 4)

    def _near_clip(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, T, h, L, hd] of each: every frame sees itself and those just before it."""
        keys, values, bias = self._recent(key, value)
        scores = query @ keys.transpose(-1, -2) + bias
        return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ values

    def _recent(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [B, T, h, near L, hd] of every frame and those just before it, itself last, and their bias
        [T, h, L, near L].
        """
        b, t, h, length, size = key.shape
        near = min(self.how.near, self.window)
        before = key.new_zeros(b, near - 1, h, length, size)
        # Slices, not an unfold: compiled for a CPU, its gradient crashed.
        both = (torch.cat((before, one), 1) for one in (key, value))
        keys, values = (torch.cat([one[:, i : i + t] for i in range(near)], 3) for one in both)  # [B, T, h, near L, hd]
        ago = torch.arange(near - 1, -1, -1, device=key.device)
        there = (torch.arange(t, device=key.device)[:, None] >= ago).view(t, 1, 1, near, 1)
        bias = self._near_table()[:, :, ago].masked_fill(~there, -torch.inf).flatten(3)
        return keys, values, bias.to(key.dtype)

    def _far_clip(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, T, h, places, hd] of each: every frame sees itself, and the strided ones before it."""
        keys, values, bias, now = self._strided(key, value)
        return _two(query, keys, values, bias, key, value, now)

    def _strided(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values [B, 1, h, kept places, hd] of strided frames, their bias [T, h, 1, kept places] by age, and
        that of a frame itself.
        """
        t, stride = key.shape[1], self.how.stride
        frame = torch.arange(t, device=key.device)
        age = frame[:, None] - frame[::stride]  # [T, kept]
        seen = (age > 0) & (age < self.window)
        bias = self.age_bias[:, age.clamp(0, self.spans - 1)].masked_fill(~seen, -torch.inf)  # [h, T, kept]
        bias = bias.transpose(0, 1).repeat_interleave(self.places, -1).unsqueeze(2)
        keys, values = (one[:, ::stride].transpose(1, 2).flatten(2, 3).unsqueeze(1) for one in (key, value))
        return keys, values, bias.to(key.dtype), self.age_bias[:, :1, None].to(key.dtype)


class MultiScaleBlock(nn.Module):
    """Attention at two scales over frame and past at once, and the MLP; each pre-normed and residual."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, eps=1e-6)
        self.mixed = MultiScaleAttention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, eps=1e-6)
        self.mlp = MLP(config.dim, config.mlp_ratio)

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:  # [B, T, L, D] -> [B, T, L, D]
        x = x + self.mixed(self.norm(x), levels)
        return x + self.mlp(self.mlp_norm(x))

    def step(
        self, x: Tensor, level: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One frame [B, L, D]; see :meth:`MultiScaleAttention.step` for the cache, whose ages are ``bias``."""
        mixed, key, value = self.mixed.step(self.norm(x), level, keys, values, bias)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), key, value


def multi_scale(config: ModelConfig) -> MultiScaleConfig:
    """``config.multiscale``, which is there."""
    assert config.multiscale is not None
    return config.multiscale


def memory_entries(how: MultiScaleConfig, tokens: int, heads: int, rows: int, columns: int) -> int:
    """Keys that a frame leaves: of ``heads`` near heads at every token, and of as many far ones at every square of the
    smaller side. Blocks that pool more leave the rest empty.
    """
    return heads * (tokens + (rows // how.pool) * (columns // how.pool))


def attention_flops(config: ModelConfig, layer: int, slots: int) -> dict[str, int]:
    """Multiplications and additions of one block's attention for one more frame, by what they are for.

    MSC's section 3.2, of a frame (L tokens, width D) in place of a clip. Queries, keys and values of half of the width
    at each scale, the coarse one's of L / r^2 places; the way out of all; scores and sums 2 D L K for K keys, where the
    fine branch computes all places of ``near`` frames and masks those outside the cone, and the coarse one has
    L / r^2 queries and (1 + slots) L / r^2 keys.

    The paper counts (D / 2)^2 for a projection within a branch; heads that read the full width, as here and in LITv2
    (arXiv 2205.13213), from which it takes the branches, need D^2 / 2. Its fine branch computes nothing outside the
    window; "near, needed" says how much that would be.

    Args:
        config: With ``multiscale``.
        layer: Number of the block.
        slots: Far frames that are remembered.
    """
    how, length, dim = multi_scale(config), config.tokens, config.dim
    places = length // how.pooled(layer, config.encoder_layers) ** 2
    _, inside = _cone(config, how)
    return {
        "projections": 2 * dim * (3 * dim // 2) * (length + places) + 2 * length * dim * dim,
        "near": 2 * dim * length * how.near * length,
        "near, needed": 2 * dim * int(inside.sum()),
        "far": 2 * dim * places * (1 + slots) * places,
    }


def _cone(config: ModelConfig, how: MultiScaleConfig) -> tuple[Tensor, Tensor]:
    """Where in a flat table [near, (2 w + 1)^2] the bias of a pair of places is, int64 [L, near, L], and which pairs
    lie in the light cone, bool [L, near, L].
    """
    widest = how.reach(how.near - 1)
    place, ago = torch.arange(config.tokens), torch.arange(how.near)
    rows, columns = place // config.columns, place % config.columns
    down, along = (at[None, :] - at[:, None] for at in (rows, columns))  # [L, L]
    at = (down.clamp(-widest, widest) + widest) * (2 * widest + 1) + along.clamp(-widest, widest) + widest
    offset = ago[None, :, None] * (2 * widest + 1) ** 2 + at[:, None]
    reach = torch.tensor([how.reach(int(gap)) for gap in ago])
    return offset, torch.maximum(down.abs(), along.abs())[:, None] <= reach[None, :, None]


def _two(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, key: Tensor, value: Tensor, now: Tensor) -> Tensor:
    """Attention over what is remembered and the present."""
    weights = _joint(query, keys, bias, key, now).to(value.dtype)
    split = keys.shape[-2]
    return weights[..., :split] @ values + weights[..., split:] @ value


def _joint(query: Tensor, keys: Tensor, bias: Tensor, key: Tensor, now: Tensor) -> Tensor:
    """Weights of what is remembered and, after it, of the present: scores are joined, so that keys need no copy."""
    past, here = query @ keys.transpose(-1, -2) + bias, query @ key.transpose(-1, -2) + now
    return torch.cat((past, here), -1).softmax(-1, dtype=torch.float32)


def _padded(near: Tensor, far: Tensor, entries: int) -> Tensor:
    """Near keys [B, h, L, hd] and far ones [B, h, places, hd] in one piece [B, entries, hd]."""
    made = torch.cat((near.flatten(1, 2), far.flatten(1, 2)), 1)
    return F.pad(made, (0, 0, 0, entries - made.shape[1]))
