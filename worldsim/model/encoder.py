"""The temporal causal encoder of Separable Causal Diffusion: one pass a frame, all history and past actions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention, TemporalAttention, ring_bias
from worldsim.model.config import ModelConfig
from worldsim.model.multiscale import MultiScaleBlock
from worldsim.model.standard import Standard
from worldsim.model.trail import told


class EncoderBlock(nn.Module):
    """Attention within the frame, causal attention along time, MLP; each pre-normed and residual.

    Args:
        config: Of the model.
        layer: Its number: each layer has a head that begins by looking around frames of another age.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.space_norm = RMSNorm(config.dim, eps=1e-6)
        self.space = SpatialAttention(config.dim, config.heads, config.rows, config.columns)
        self.time_norm = RMSNorm(config.dim, eps=1e-6)
        tap = config.window * (layer + 1) // (config.encoder_layers + 1)
        self.time = TemporalAttention(config.dim, config.heads, config.window, tap=tap, age_dim=config.age_dim)
        self.mlp_norm = RMSNorm(config.dim, eps=1e-6)
        self.mlp = MLP(config.dim, config.mlp_ratio)

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:  # [B, T, L, D] -> [B, T, L, D]
        x = x + self.space(self.space_norm(x).flatten(0, 1)).view_as(x)
        x = x + self.time(self.time_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(
        self, x: Tensor, level: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One frame [B, L, D]; see :meth:`TemporalAttention.step` for the cache."""
        x = x + self.space(self.space_norm(x))
        mixed, key, value = self.time.step(self.time_norm(x), keys, values, bias)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), key, value


_ADDS = "out.weight", "down.weight"  # of a block: what it adds to its input comes through these


class CausalEncoder(nn.Module):
    """Frames and the actions that led to them in, one context per frame out (SCD, arXiv 2602.10095, section 4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.standard = Standard(config, config.margin) if config.standardised else None
        self.patches = nn.Linear(config.view_dim, config.dim)
        # Unit scale, not 0.02: a token must know where it is from the first step (see docs/experiments).
        self.position = nn.Parameter(0.5 * torch.randn(config.tokens, config.dim))
        self.action = nn.Embedding(config.num_actions + 1, config.dim)  # the last row: no action came before
        rows = (config.past_actions - 1) * (config.num_actions + 1)
        self.older = nn.Embedding(rows, config.dim) if rows else None  # of the actions before it, each age's in turn
        if self.older is not None:
            nn.init.zeros_(self.older.weight)
        self.level = nn.Embedding(config.context_levels, config.dim)
        layers = range(config.encoder_layers)
        self.blocks = nn.ModuleList(
            MultiScaleBlock(config, i) if config.multiscale else EncoderBlock(config, i) for i in layers
        )
        self.norm = RMSNorm(config.dim, eps=1e-6)

    def embed(self, views: Tensor, previous_actions: Tensor, levels: Tensor) -> Tensor:
        """Tokens [..., L, D] from views [..., L, V], trails [...] and context-noise buckets [...]."""
        condition = self._told(previous_actions) + self.level(levels)
        seen = views if self.standard is None else self.standard.views(views)
        return self.patches(seen) + self.position + condition.unsqueeze(-2)

    def forward(self, views: Tensor, previous_actions: Tensor, levels: Tensor) -> Tensor:
        """Context of every frame of a clip.

        Args:
            views: [B, T, L, V], see :meth:`~worldsim.model.world_model.WorldModel.views`.
            previous_actions: int64 [B, T], trails (:mod:`worldsim.model.trail`); of one action, entry t is
                action[t-1], ``num_actions`` where there is none.
            levels: int64 [B, T], context-noise buckets.

        Returns:
            [B, T, L, D]; entry t depends on views t-W+1 ... t of each layer below and on nothing later.
        """
        x = self.embed(views, previous_actions, levels)
        for block in self.blocks:
            x = block(x, levels)
        return self.norm(x)

    def step(
        self,
        view: Tensor,
        previous_action: Tensor,
        level: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Context of one frame given the cache; pure.

        Args:
            view: [B, L, V].
            previous_action: int64 [B], a trail.
            level: int64 [B].
            keys, values: [layers, B, h, L, W-1, hd]; at two scales [layers, B, entries, hd].
            bias: [layers, B, h, 1 + age_dim, W-1], see :meth:`ring_bias`; at two scales the slots' ages, see
                :meth:`~worldsim.model.multiscale.MultiScaleAttention.step`.

        Returns:
            Context [B, L, D], and this frame's keys and values [layers, B, h, L, hd]; at two scales [layers, B,
            entries of a frame, hd].
        """
        x = self.embed(view, previous_action, level)
        new_keys, new_values = [], []
        for i, block in enumerate(self._blocks()):
            x, key, value = block.step(x, level, keys[i], values[i], bias if self.config.multiscale else bias[i])
            new_keys.append(key)
            new_values.append(value)
        return self.norm(x), torch.stack(new_keys), torch.stack(new_values)

    def ring_bias(self, age: Tensor) -> Tensor:
        """Bias [layers, B, h, 1 + age_dim, W-1] of ring slots by their age: int64 [B, W-1], 1 ... W-1, or 0 for an
        empty slot; see :func:`~worldsim.model.attention.ring_bias`.
        """
        return ring_bias([block.time for block in self._blocks() if isinstance(block, EncoderBlock)], age)

    @torch.no_grad()
    def rest(self) -> None:
        """Begin as :meth:`blind`: a frame's view adds nothing to its tokens, and no block to what it is given."""
        self.patches.weight.zero_()
        self.patches.bias.zero_()
        for name, weight in self.blocks.named_parameters():
            if name.endswith(_ADDS):
                weight.zero_()

    @property
    def rests(self) -> bool:
        """Whether no block adds anything to what it is given, so that the encoder is what it would be without them."""
        return not any(bool(weight.any()) for name, weight in self.blocks.named_parameters() if name.endswith(_ADDS))

    @property
    def sees(self) -> bool:
        """Whether anything but actions and noise levels tells in contexts: not where nobody has learned since
        :meth:`rest`.
        """
        return not self.rests or bool(self.patches.weight.any()) or bool(self.patches.bias.any())

    def blind(self, previous_actions: Tensor, levels: Tensor | None = None) -> Tensor:
        """Contexts [N, L, D] that tell where a token is and which trail, int64 [N], led to its frame; no more.

        Of frames with ``levels`` of context noise, int64 [N]; of clean ones where that is None.
        """
        condition = self._told(previous_actions) + (self.level.weight[0] if levels is None else self.level(levels))
        return self.norm(self.position + condition.unsqueeze(-2))

    def _told(self, trail: Tensor) -> Tensor:
        """What trails [...] add to tokens [..., D]."""
        last, *before = told(trail, self.config)
        added: Tensor = self.action(last)
        if self.older is not None:
            for age, action in enumerate(before):
                added = added + self.older(action + age * (self.config.num_actions + 1))
        return added

    def _blocks(self) -> Iterator[EncoderBlock | MultiScaleBlock]:
        for block in self.blocks:  # ModuleList forgets what it holds
            assert isinstance(block, EncoderBlock | MultiScaleBlock)
            yield block
