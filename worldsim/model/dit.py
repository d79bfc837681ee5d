"""The monolithic designs: one diffusion transformer whose mask makes it bidirectional, chunk-causal or frame-causal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention, TemporalAttention, ring_bias
from worldsim.model.config import ModelConfig
from worldsim.model.decoder import NoiseLevelEmbedding
from worldsim.model.refiner import Refiner
from worldsim.model.standard import Standard
from worldsim.model.token_decoder import modulate
from worldsim.model.views import Views
from worldsim.model.windows import WindowBlock

MODULATIONS = 9  # shift, scale and gate of attention within the frame, of attention along time, and of the MLP


class DiTBlock(nn.Module):
    """Attention within the frame, attention along time and MLP, each modulated by AdaLN-Zero."""

    def __init__(self, config: ModelConfig, chunk: int) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.space = SpatialAttention(config.dim, config.heads, config.rows, config.columns)
        self.time = TemporalAttention(config.dim, config.heads, config.window, chunk)
        self.mlp = MLP(config.dim, config.mlp_ratio)
        self.offset = nn.Parameter(torch.zeros(MODULATIONS * config.dim))

    def forward(self, x: Tensor, modulation: Tensor, taught: bool = False) -> Tensor:
        """[B, T, L, D] and [B, T, 9 D] to [B, T, L, D]; ``taught``: see :meth:`DiT.teach`."""
        parts = (modulation + self.offset).chunk(MODULATIONS, -1)
        x = self._within(x, parts)
        band = self.time.teacher_band(x.shape[1] // 2) if taught else None
        x = torch.addcmul(x, parts[5].unsqueeze(-2), self.time(modulate(self.norm(x), *parts[3:5]), band))
        return torch.addcmul(x, parts[8].unsqueeze(-2), self.mlp(modulate(self.norm(x), *parts[6:8])))

    def step(
        self, x: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk [B, k, L, D]; see :meth:`TemporalAttention.step_chunk` for the cache."""
        parts = (modulation + self.offset).chunk(MODULATIONS, -1)  # 9 x [B, k, D]
        x = self._within(x, parts)
        mixed, key, value = self.time.step_chunk(modulate(self.norm(x), *parts[3:5]), keys, values, bias)
        x = torch.addcmul(x, parts[5].unsqueeze(-2), mixed)
        return torch.addcmul(x, parts[8].unsqueeze(-2), self.mlp(modulate(self.norm(x), *parts[6:8]))), key, value

    def _within(self, x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        seen = modulate(self.norm(x), *parts[0:2]).flatten(0, 1)
        return torch.addcmul(x, parts[2].unsqueeze(-2), self.space(seen).unflatten(0, x.shape[:2]))


class DiT(nn.Module):
    """Diffusion transformer over the frames of a clip, x0-prediction in pixels.

    What Separable Causal Diffusion is compared with: every block attends within the frame and along time, and all of
    them run once a denoising step. With ``chunk`` = k the mask is floor(j / k) <= floor(i / k): with 1 it is
    frame-causal, with the length of a clip bidirectional. In a roll-out all blocks run once more on the clean chunk,
    whose keys and values are kept (CausVid's Algorithm 2, arXiv 2412.07772). The modulation is shared by the blocks up
    to an offset (adaLN-single, PixArt-alpha, arXiv 2310.00426), so that as many blocks as the encoder of
    :class:`~worldsim.model.world_model.WorldModel` has give about the parameters of all of that, and no more.

    Args:
        config: Sizes; ``encoder_layers`` blocks.
        chunk: Frames that are made together.
        windows: All clips have ``chunk`` frames, and attention is within windows of space and time, see
            :class:`~worldsim.model.windows.WindowBlock`; nothing can be cached.

    With ``config.viewed`` a token also sees the view of the frame before its own
    (:class:`~worldsim.model.views.Views`): how fast things are, and where they lead. Without, attention must find that.
    Of frames before its chunk views are of clean ones, of those in it of noisy ones. Before the first frame all are
    taken to have been the median frame, or mid-grey.
    """

    def __init__(self, config: ModelConfig, chunk: int = 1, *, windows: bool = False) -> None:
        super().__init__()
        self.config, self.chunk = config, chunk
        self.looks = Views(config) if config.viewed else None
        self.standard = Standard(config, config.margin if config.viewed else 0) if config.standardised else None
        self.patches = nn.Linear(config.patch_dim + (config.view_dim if config.viewed else 0), config.dim)
        self.position = nn.Parameter(0.5 * torch.randn(config.tokens, config.dim))
        self.level = NoiseLevelEmbedding(config.dim)
        self.action = nn.Embedding(config.num_actions + 1, config.dim)  # the last row: no action came before
        self.modulation = nn.Linear(config.dim, MODULATIONS * config.dim)
        self.blocks = nn.ModuleList(
            WindowBlock(config, chunk, MODULATIONS) if windows else DiTBlock(config, chunk)
            for _ in range(config.encoder_layers)
        )
        self.norm = RMSNorm(config.dim, eps=1e-6)
        self.out = nn.Linear(config.dim, config.patch_dim)
        self.refiner = Refiner(config) if config.refined else None
        for zero in (self.modulation.weight, self.modulation.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(zero)

    @property
    def memory_layers(self) -> int:
        """Layers with keys and values in the ring."""
        return len(self.blocks)

    @property
    def no_action(self) -> int:
        """Index of "no action came before"."""
        return self.config.num_actions

    def condition(self, t: Tensor, action: Tensor) -> Tensor:
        """Modulation [..., M] of noise levels [...] and of the actions [...] that led to the frames.

        The blocks' 9 D values, those of the refiner if there is one, and at last the level.
        """
        level = self.level(t.flatten()).unflatten(0, t.shape)
        told = F.silu(level + self.action(action))
        parts = [layer(told) for layer in (self.modulation, *([self.refiner.modulation] if self.refiner else []))]
        return torch.cat((*parts, t[..., None].to(told.dtype)), -1)

    def forward(self, noisy: Tensor, t: Tensor, action: Tensor, clean: Tensor | None = None) -> Tensor:
        """Clean frames of whole clips, every frame at a noise level of its own (diffusion forcing, arXiv 2407.01392).

        Args:
            noisy: x_t = (1 - t) x0 + t eps, patches [B, T, L, P].
            t: Noise levels [B, T] in [0, 1]; 0 is a clean frame, which is there for those that follow.
            action: int64 [B, T], the action that led to each frame, ``num_actions`` where there is none.
            clean: Of the same frames, for views of those before a chunk; None: as far as they are given.

        Returns:
            x0 [B, T, L, P]; entry t depends on its chunk, on the ``window - 1`` frames before that of each layer below,
            and on nothing later.
        """
        return self.denoise(noisy, self.condition(t, action), clean)

    def denoise(self, noisy: Tensor, modulation: Tensor, clean: Tensor | None = None) -> Tensor:
        """:meth:`forward`, with the modulation [B, T, M] of levels and actions, see :meth:`condition`."""
        seen, told = self._seen(noisy, modulation), self._of_blocks(modulation)
        x, sight = self._tokens(seen, self._last_views(noisy, noisy if clean is None else clean))
        for block in self.blocks:
            x = block(x, told)
        return self._made(x, sight, modulation)

    def teach(self, clean: Tensor, noisy: Tensor, t: Tensor, action: Tensor) -> Tensor:
        """As :meth:`forward`, each chunk given the clean frames before it (teacher forcing).

        What :meth:`step` gives of each chunk in turn with the clean ones in its cache, at once and for twice the price.

        Args:
            clean, noisy: Patches [B, T, L, P] of the same frames.
            t: Noise levels [B, T] of the noisy ones.
            action: int64 [B, T].

        Returns:
            x0 [B, T, L, P] of the noisy ones.
        """
        frames = clean.shape[1]
        modulation = torch.cat((self.condition(torch.zeros_like(t), action), self.condition(t, action)), 1)
        views = self._last_views(clean, clean), self._last_views(noisy, clean)
        both = None if views[0] is None or views[1] is None else torch.cat((views[0], views[1]), 1)
        seen, told = self._seen(torch.cat((clean, noisy), 1), modulation), self._of_blocks(modulation)
        x, sight = self._tokens(seen, both)
        for block in self._cached():
            x = block(x, told, taught=True)
        return self._made(x[:, frames:], None if sight is None else sight[:, frames:], modulation[:, frames:])

    def step(
        self,
        noisy: Tensor,
        modulation: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        before: Tensor | None = None,
    ) -> Tensor:
        """One chunk given the cache; pure.

        Args:
            noisy: [B, k, L, P].
            modulation: [B, k, M], see :meth:`condition`.
            keys, values: [layers, B, h, L, W-1, hd].
            bias: [layers, B, h, k, W-1], see :meth:`ring_bias`.
            before: The view [B, L, V] of the last frame before the chunk, of a model that sees it.

        Returns:
            x0 [B, k, L, P].
        """
        x, sight, _, _ = self._through(noisy, modulation, keys, values, bias, before)
        return self._made(x, sight, modulation)

    def remember(
        self,
        clean: Tensor,
        modulation: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What is kept of a clean chunk, its keys and values [layers, B, h, L, k, hd]; arguments as of :meth:`step`,
        with the modulation of level 0.
        """
        _, _, new_keys, new_values = self._through(clean, modulation, keys, values, bias, before)
        return torch.stack(new_keys), torch.stack(new_values)

    def view(self, chunk: Tensor, before: Tensor) -> Tensor:
        """The view [B, L, V] of the last frame of a chunk [B, k, L, P], by that of the one before it."""
        assert self.looks is not None
        for frame in chunk.unbind(1):
            before = self.looks.view(frame, before)
        return before

    def blank(self) -> Tensor:
        """The view [L, V] of what is taken to have been before the first frame."""
        assert self.looks is not None
        return self.looks.view(self._nothing(), None)

    def ring_bias(self, age: Tensor) -> Tensor:
        """Bias [layers, B, h, k, W-1] of ring slots by their age: int64 [B, W-1], 1 ... W-1, or 0 for an empty slot."""
        return ring_bias([block.time for block in self._cached()], age)

    def _through(
        self,
        frames: Tensor,
        modulation: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        before: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor], list[Tensor]]:
        last = None if before is None else self._from(frames, before)
        x, sight = self._tokens(self._seen(frames, modulation), last)
        told, new_keys, new_values = self._of_blocks(modulation), [], []
        for i, block in enumerate(self._cached()):
            x, key, value = block.step(x, told, keys[i], values[i], bias[i])
            new_keys.append(key)
            new_values.append(value)
        return x, sight, new_keys, new_values

    def _of_blocks(self, modulation: Tensor) -> Tensor:
        return modulation[..., : MODULATIONS * self.config.dim]

    def _seen(self, noisy: Tensor, modulation: Tensor) -> Tensor:
        return noisy if self.standard is None else self.standard.noisy(noisy, modulation[..., -1])

    def _tokens(self, seen: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of frames [B, T, L, P], and of views [B, T, L, V] of those before them; and what a refiner saw."""
        of = seen
        if last is not None:
            of = torch.cat((of, last if self.standard is None else self.standard.views(last)), -1)
        tokens: Tensor = self.patches(of) + self.position
        if self.refiner is None:
            return tokens, None
        sight, told = self.refiner.look(seen.flatten(0, 1))
        return tokens + told.view_as(tokens), sight.unflatten(0, seen.shape[:2])

    def _last_views(self, noisy: Tensor, clean: Tensor) -> Tensor | None:
        """Of each of the frames [B, T, L, P] of a clip the view [B, T, L, V] of the one before."""
        if self.looks is None:
            return None
        frames = noisy.shape[1]
        alone = self.chunk >= frames  # all see each other: nothing is given but what they are
        first = self._nothing().expand(len(clean), 1, -1, -1).to(clean)
        views = self.looks.views(torch.cat((first, (noisy if alone else clean)[:, :-1]), 1))
        if alone or self.chunk == 1:
            return views
        missing = -frames % self.chunk  # of the last chunk
        whole = torch.cat((noisy, noisy[:, -1:].expand(-1, missing, -1, -1)), 1)
        chunks = whole.unflatten(1, (-1, self.chunk)).flatten(0, 1)  # [B C, k, L, P]
        last = self._from(chunks, views[:, :: self.chunk].flatten(0, 1))  # [B C, k, L, V]
        return last.unflatten(0, (len(noisy), -1)).flatten(1, 2)[:, :frames]

    def _from(self, chunk: Tensor, before: Tensor) -> Tensor:
        """As :meth:`_last_views`, of one chunk [B, k, L, P], by the view [B, L, V] of the last frame before it."""
        assert self.looks is not None
        views = [before]
        for frame in chunk[:, :-1].unbind(1):
            views.append(self.looks.view(frame, views[-1]))
        return torch.stack(views, 1)

    def _nothing(self) -> Tensor:
        frame = torch.zeros_like(self.position[:, :1]).expand(-1, self.config.patch_dim)
        return frame if self.standard is None else self.standard.frame.to(frame)

    def _made(self, x: Tensor, sight: Tensor | None, modulation: Tensor) -> Tensor:
        x = self.norm(x)
        made: Tensor = self.out(x)
        if self.refiner is not None and sight is not None:
            told = modulation[..., MODULATIONS * self.config.dim : -1]
            made = self.refiner(*(one.flatten(0, 1) for one in (made, x, sight, told))).view_as(made)
        return made if self.standard is None else self.standard.whole(made)

    def _cached(self) -> Iterator[DiTBlock]:
        """Blocks that attend along time, whose keys and values can be kept."""
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            yield block


def wake(model: nn.Module, seed: int, scale: float = 0.05) -> None:
    """Draw the weights that begin at zero, in place: AdaLN-Zero makes a fresh network blind, a trained one is not.

    For measuring what a design does, not what it has learned.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
