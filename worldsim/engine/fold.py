"""A model for playing only: the same function in fewer operations.

A tick of one row is hundreds of operations on a few thousand numbers, and on a CPU each costs microseconds however
small it is. Whatever constants can take over is folded into them here: the gains of norms into the matrices that
follow, the skip around the convolution into its middle tap, sums of embeddings into tables. Trained weights are not
touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention, TemporalAttention
from worldsim.model.config import ModelConfig
from worldsim.model.decoder import DecoderBlock, FrameDecoder
from worldsim.model.encoder import CausalEncoder, EncoderBlock
from worldsim.model.world_model import WorldModel
from worldsim.world import World

_folded: WeakKeyDictionary[World, dict[tuple[torch.device, torch.dtype], WorldModel]] = WeakKeyDictionary()


def model_to_play(world: World, device: torch.device, dtype: torch.dtype) -> WorldModel:
    """A world's model, folded, on a device in a number format: one copy that its sessions share."""
    held = _folded.setdefault(world, {})
    if (device, dtype) not in held:
        held[device, dtype] = fold(world.model, dtype).to(device)
    return held[device, dtype]


def fold(model: WorldModel, dtype: torch.dtype | None = None) -> WorldModel:
    """A copy for inference with folded constants, computed in float32 and then cast.

    Args:
        model: Not changed.
        dtype: Of the copy; None: the model's.

    Returns:
        A model whose ``view``, ``encode_step``, ``ring_bias``, ``scene``, ``modulations`` and ``denoise`` give what the
        model's do, up to rounding. What :meth:`WorldModel.modulations` gives is for its own ``denoise`` alone.
    """
    wanted = dtype or model.decoder.out.weight.dtype
    folded = copy.deepcopy(model).float()
    with torch.no_grad():
        folded.encoder = FoldedEncoder(folded.encoder)  # type: ignore[assignment]
        folded.decoder = FoldedDecoder(folded.decoder)  # type: ignore[assignment]
    return folded.to(wanted).eval().requires_grad_(False)


def unit(x: Tensor, eps: float) -> Tensor:
    """``x / |x|`` over the last dimension: an RMSNorm short of its gain and of the square root of the width."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_((eps * x.shape[-1]) ** 0.5)


def gain(norm: RMSNorm) -> Tensor:
    """What :func:`unit` leaves out, [D]."""
    width = norm.normalized_shape[0]
    weight = torch.ones(width) if norm.weight is None else norm.weight
    return weight.detach() * width**0.5


class FoldedSpatial(nn.Module):
    """:class:`SpatialAttention` behind a norm, of tokens that are :func:`unit` already.

    Args:
        space: Whose weights.
        before: Gains of the tokens [D].
    """

    taps: Tensor
    gains: Tensor

    def __init__(self, space: SpatialAttention, before: Tensor) -> None:
        super().__init__()
        self.heads, self.rows, self.columns = space.heads, space.conv.rows, space.conv.columns
        taps = space.conv.weight.detach().clone()
        taps[:, 0, 1, 1] += 1
        self.register_buffer("taps", taps * before[:, None, None, None])
        self.qkv, self.out = space.qkv, space.out
        self.eps = space.query_norm.eps or 0.0
        self.register_buffer("gains", joint_gains(space))

    def forward(self, x: Tensor) -> Tensor:  # [N, L, D] -> [N, L, D]
        n, length, dim = x.shape
        grid = x.view(n, self.rows, self.columns, dim).permute(0, 3, 1, 2)
        grid = F.conv2d(grid, self.taps, padding=1, groups=dim).permute(0, 2, 3, 1)
        qkv = self.qkv(grid.reshape(n, length, dim)).view(n, length, 3, self.heads, -1)
        both = unit(qkv[:, :, :2], self.eps).mul_(self.gains).transpose(1, 3)  # [N, h, 2, L, hd]
        mixed = self.mix(both[:, :, 0], both[:, :, 1], qkv[:, :, 2].transpose(1, 2))
        return self.out(mixed.transpose(1, 2).reshape(n, length, dim))

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [N, h, L, hd]
        """Attention whose scale is in the queries."""
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)


class FoldedTemporal(nn.Module):
    """One step of :class:`TemporalAttention` behind a norm, of tokens that are :func:`unit` already."""

    gains: Tensor

    def __init__(self, time: TemporalAttention, before: Tensor) -> None:
        super().__init__()
        self.heads, self.window = time.heads, time.window
        self.qkv, self.out = scaled(time.qkv, before), time.out
        self.eps = time.query_norm.eps or 0.0
        self.register_buffer("gains", joint_gains(time))
        # Against the present's, whose score then needs none: a softmax does not see what all scores share.
        self.age_bias = nn.Parameter(time.age_bias.detach() - time.age_bias.detach()[:, :1])

    def step(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`TemporalAttention.step`."""
        b, length, dim = x.shape
        qkv = self.qkv(x).to(keys.dtype).view(b, length, 3, self.heads, -1)
        both = unit(qkv[:, :, :2], self.eps).mul_(self.gains).transpose(1, 3)  # [B, h, 2, L, hd]
        query, key, value = both[:, :, 0], both[:, :, 1], qkv[:, :, 2].transpose(1, 2)
        mixed = self.mix(query, key, value, keys, values, bias).transpose(1, 2).reshape(b, length, dim)
        return self.out(mixed.to(x.dtype)), key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attention of the present [B, h, L, hd] to the past [B, h, L, W-1, hd] and to itself."""
        # The other way round, keys times query, takes twice as long.
        past = (query.unsqueeze(-2) @ keys.transpose(-1, -2)).squeeze(-2).add_(bias)  # [B, h, L, W-1]
        now = (query * key).sum(-1, keepdim=True)
        weights = torch.cat((past, now), -1).softmax(-1, dtype=torch.float32).to(values.dtype)
        mixed = (weights[..., None, :-1] @ values).squeeze(-2)
        return torch.addcmul(mixed, weights[..., -1:], value)


class FoldedMLP(nn.Module):
    """:class:`MLP` behind a norm, of tokens that are :func:`unit` already."""

    def __init__(self, mlp: MLP, before: Tensor) -> None:
        super().__init__()
        self.up, self.down = scaled(mlp.up, before), mlp.down

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).relu_()
        return self.down(hidden.mul_(hidden))


class FoldedEncoderBlock(nn.Module):
    """One frame through an :class:`EncoderBlock`."""

    def __init__(self, block: EncoderBlock) -> None:
        super().__init__()
        self.eps = block.space_norm.eps or 0.0
        self.space = FoldedSpatial(block.space, gain(block.space_norm))
        self.time = FoldedTemporal(block.time, gain(block.time_norm))
        self.mlp = FoldedMLP(block.mlp, gain(block.mlp_norm))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`EncoderBlock.step`."""
        x = self.space(unit(x, self.eps)).add_(x)
        mixed, key, value = self.time.step(unit(x, self.eps), keys, values, bias)
        x = mixed.add_(x)
        return self.mlp(unit(x, self.eps)).add_(x), key, value


class FoldedEncoder(CausalEncoder):
    """One frame through a :class:`CausalEncoder`."""

    table: Tensor

    def __init__(self, encoder: CausalEncoder) -> None:
        nn.Module.__init__(self)
        self.config = encoder.config
        self.matrix = nn.Linear(encoder.config.view_dim, encoder.config.dim, bias=False)
        self.matrix.weight = encoder.patches.weight
        condition = encoder.action.weight[:, None] + encoder.level.weight + encoder.patches.bias  # [actions, levels, D]
        self.register_buffer("table", condition.detach()[:, :, None] + encoder.position.detach())
        self.blocks = nn.ModuleList(FoldedEncoderBlock(block) for block in encoder._blocks())
        self.norm = encoder.norm

    def _blocks(self) -> Iterator[FoldedEncoderBlock]:  # type: ignore[override]
        for block in self.blocks:
            assert isinstance(block, FoldedEncoderBlock)
            yield block

    def embed(self, views: Tensor, previous_actions: Tensor, levels: Tensor) -> Tensor:
        """See :meth:`CausalEncoder.embed`; [N, L, V] only."""
        tokens: Tensor = self.matrix(views)
        return tokens.add_(self.table[previous_actions, levels])


class FoldedDecoderBlock(nn.Module):
    """:class:`DecoderBlock` with scales that have everything in them."""

    def __init__(self, block: DecoderBlock) -> None:
        super().__init__()
        self.eps = block.norm.eps or 0.0
        ones = torch.ones(block.mlp.up.in_features)  # the norm's gain is in the modulation's scale
        self.space = FoldedSpatial(block.space, ones)
        self.mlp = FoldedMLP(block.mlp, ones)
        self.modulation = block.modulation

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """[N, L, D] and [N, 6 D], see :meth:`FoldedDecoder.modulations`, to [N, L, D]."""
        shift, scale, gate, shift2, scale2, gate2 = modulation.unsqueeze(-2).chunk(6, -1)
        x = torch.addcmul(x, gate, self.space(torch.addcmul(shift, unit(x, self.eps), scale)))
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, unit(x, self.eps), scale2)))


class FoldedDecoder(FrameDecoder):
    """:class:`FrameDecoder` with its first matrix in two, one for what is known before the action and one for noise."""

    place: Tensor

    def __init__(self, decoder: FrameDecoder) -> None:
        nn.Module.__init__(self)
        c: ModelConfig = decoder.config
        self.config = c
        self.position = decoder.position
        first = decoder.patches.weight.detach()
        self.noisy = _linear(first[:, : c.patch_dim])
        self.past = _linear(torch.cat((first[:, c.patch_dim :], decoder.context.weight.detach()), 1))
        self.register_buffer("place", (decoder.position + decoder.patches.bias).detach())
        self.level, self.action, self.modulation = decoder.level, decoder.action, decoder.modulation
        self.blocks = nn.ModuleList(FoldedDecoderBlock(block) for block in decoder._blocks())
        self.eps, self.out, self.displace = decoder.norm.eps or 0.0, decoder.out, decoder.displace

    def _blocks(self) -> Iterator[FoldedDecoderBlock]:  # type: ignore[override]
        for block in self.blocks:
            assert isinstance(block, FoldedDecoderBlock)
            yield block

    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """See :meth:`FrameDecoder.scene`."""
        tokens: Tensor = self.past(torch.cat((last, context), -1)).add_(self.place)
        if not self.config.extrapolated:
            return tokens
        return torch.cat((tokens, *self.candidates(last)), -1)

    def modulations(self, t: Tensor, action: Tensor) -> list[Tensor]:
        """As :meth:`FrameDecoder.modulations`, with 1 and the square root of the width in every scale."""
        condition = F.silu(self.level(t) + self.action(action))
        made = [block.modulation(condition) for block in self._blocks()] + [self.modulation(condition)]
        root = self.config.dim**0.5
        for one in made:
            for scale in one.chunk(one.shape[-1] // self.config.dim, -1)[1::3]:
                scale.add_(1).mul_(root)
        return made

    def denoise_and_move(
        self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`FrameDecoder.denoise_and_move`."""
        dim = self.config.dim
        x = self.noisy(noisy).add_(scene[..., :dim])
        for block, modulation in zip(self._blocks(), modulations, strict=False):
            x = block(x, modulation)
        shift, scale = modulations[-1].unsqueeze(-2).chunk(2, -1)
        return self.blend(self.out(torch.addcmul(shift, unit(x, self.eps), scale)), scene)


def joint_gains(attention: SpatialAttention | TemporalAttention) -> Tensor:
    """Gains of unit queries and keys [2, 1, hd], with the scale of their products in the queries'."""
    query, key = gain(attention.query_norm), gain(attention.key_norm)
    return torch.stack((query * len(query) ** -0.5, key)).unsqueeze(1)


def scaled(linear: nn.Linear, before: Tensor) -> nn.Linear:
    """A linear map without bias of inputs that lack a gain [D]."""
    return _linear(linear.weight.detach() * before)


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight.contiguous())
    return made
