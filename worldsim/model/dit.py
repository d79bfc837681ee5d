"""The monolithic designs: one diffusion transformer whose mask makes it bidirectional, chunk-causal or frame-causal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention, TemporalAttention, ring_bias
from worldsim.model.config import ModelConfig
from worldsim.model.conv_decoder import ConvDecoder
from worldsim.model.decoder import NoiseLevelEmbedding
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

    With ``config.head`` its tokens are the context of the separable model's decoder of convolutions, which learns once
    for all places what a thing does next, and sees the frames before each frame as this network has them: noisy ones of
    its own chunk, clean ones before it. Before the first frame all are taken to be the median frame, or mid-grey.
    """

    def __init__(self, config: ModelConfig, chunk: int = 1, *, windows: bool = False) -> None:
        super().__init__()
        self.config, self.chunk = config, chunk
        self.standard = Standard(config) if config.standardised else None
        self.patches = nn.Linear(config.patch_dim, config.dim)
        self.position = nn.Parameter(0.5 * torch.randn(config.tokens, config.dim))
        self.level = NoiseLevelEmbedding(config.dim)
        self.action = nn.Embedding(config.num_actions + 1, config.dim)  # the last row: no action came before
        self.modulation = nn.Linear(config.dim, MODULATIONS * config.dim)
        self.blocks = nn.ModuleList(
            WindowBlock(config, chunk, MODULATIONS) if windows else DiTBlock(config, chunk)
            for _ in range(config.encoder_layers)
        )
        self.norm = RMSNorm(config.dim, eps=1e-6)
        self.out = None if config.head else nn.Linear(config.dim, config.patch_dim)
        self.head, self.looks = None, Views(config)
        if config.head:
            # One action more: none came before.
            self.head = ConvDecoder(replace(config, num_actions=config.num_actions + 1, reward_ages=0, shortcut=None))
        for zero in (self.modulation, *([self.out] if self.out else [])):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

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

        The blocks' 9 D values, those of the head's layers, and at last the level.
        """
        level = self.level(t.flatten()).unflatten(0, t.shape)
        parts = [self.modulation(F.silu(level + self.action(action)))]
        if self.head is not None:
            parts += [one.unflatten(0, t.shape) for one in self.head.modulations(t.flatten(), action.flatten())]
        return torch.cat((*parts, t[..., None].to(parts[0].dtype)), -1)

    def forward(self, noisy: Tensor, t: Tensor, action: Tensor) -> Tensor:
        """Clean frames of whole clips, every frame at a noise level of its own (diffusion forcing, arXiv 2407.01392).

        Args:
            noisy: x_t = (1 - t) x0 + t eps, patches [B, T, L, P].
            t: Noise levels [B, T] in [0, 1]; 0 is a clean frame, which is there for those that follow.
            action: int64 [B, T], the action that led to each frame, ``num_actions`` where there is none.

        Returns:
            x0 [B, T, L, P]; entry t depends on its chunk, on the ``window - 1`` frames before that of each layer below,
            and on nothing later.
        """
        return self.denoise(noisy, self.condition(t, action))

    def denoise(self, noisy: Tensor, modulation: Tensor) -> Tensor:
        """:meth:`forward`, with the modulation [B, T, M] of levels and actions, see :meth:`condition`."""
        x = self._tokens(noisy, modulation)
        for block in self.blocks:
            x = block(x, self._of_blocks(modulation))
        return self._made(x, noisy, modulation, self._before(noisy) if self.head else None)

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
        frames, known = clean.shape[1], self.condition(t, action)
        modulation = torch.cat((self.condition(torch.zeros_like(t), action), known), 1)
        x = self._tokens(torch.cat((clean, noisy), 1), modulation)
        for block in self._cached():
            x = block(x, self._of_blocks(modulation), taught=True)
        last = None
        if self.head:
            chunks = noisy.unflatten(1, (-1, self.chunk)).flatten(0, 1)  # [B C, k, L, P]
            before = self._before(clean)[:, :: self.chunk].flatten(0, 1)
            last = self.seen(chunks, before)[:, :-1].reshape(*noisy.shape[:-1], -1)
        return self._made(x[:, frames:], noisy, known, last)

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
            before: With a head, the view [B, L, V] of the last frame before the chunk, see :meth:`seen`.

        Returns:
            x0 [B, k, L, P].
        """
        x, _, _ = self._through(noisy, modulation, keys, values, bias)
        last = None if before is None else self.seen(noisy, before)[:, :-1]
        return self._made(x, noisy, modulation, last)

    def remember(
        self, clean: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is kept of a clean chunk, its keys and values [layers, B, h, L, k, hd]; arguments as of :meth:`step`."""
        _, new_keys, new_values = self._through(clean, modulation, keys, values, bias)
        return torch.stack(new_keys), torch.stack(new_values)

    def seen(self, frames: Tensor, before: Tensor) -> Tensor:
        """Views of a chunk's frames and of the one before.

        Args:
            frames: [B, k, L, P].
            before: View [B, L, V] of the frame before, see :meth:`blank` where there is none.

        Returns:
            [B, k + 1, L, V], ``before`` the first of them.
        """
        views = [before]
        for frame in frames.unbind(1):
            views.append(self.looks.view(frame, views[-1]))
        return torch.stack(views, 1)

    def blank(self) -> Tensor:
        """The view [L, V] of what is taken to be before the first frame."""
        return self.looks.view(self._nothing(), None)

    def _nothing(self) -> Tensor:
        frame = torch.zeros_like(self.position[:, :1]).expand(-1, self.config.patch_dim)
        return frame if self.standard is None else self.standard.frame.to(frame)

    def _before(self, frames: Tensor) -> Tensor:
        """Of each of the frames [B, T, L, P] of a clip the view [B, T, L, V] of the one before."""
        first = self._nothing().expand(len(frames), 1, -1, -1).to(frames)
        return self.looks.views(torch.cat((first, frames[:, :-1]), 1))

    def _through(
        self, noisy: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        x, told = self._tokens(noisy, modulation), self._of_blocks(modulation)
        new_keys, new_values = [], []
        for i, block in enumerate(self._cached()):
            x, key, value = block.step(x, told, keys[i], values[i], bias[i])
            new_keys.append(key)
            new_values.append(value)
        return x, new_keys, new_values

    def ring_bias(self, age: Tensor) -> Tensor:
        """Bias [layers, B, h, k, W-1] of ring slots by their age: int64 [B, W-1], 1 ... W-1, or 0 for an empty slot."""
        return ring_bias([block.time for block in self._cached()], age)

    def _tokens(self, noisy: Tensor, modulation: Tensor) -> Tensor:
        seen = noisy if self.standard is None else self.standard.noisy(noisy, modulation[..., -1])
        tokens: Tensor = self.patches(seen) + self.position
        return tokens

    def _of_blocks(self, modulation: Tensor) -> Tensor:
        return modulation[..., : MODULATIONS * self.config.dim]

    def _made(self, x: Tensor, noisy: Tensor, modulation: Tensor, last: Tensor | None) -> Tensor:
        """Frames of tokens [B, T, L, D]; with a head, also of the noisy frames and of views of those before them."""
        if self.head is None:
            assert self.out is not None
            made: Tensor = self.out(self.norm(x))
            return made if self.standard is None else self.standard.whole(made)
        assert last is not None
        told = modulation[..., MODULATIONS * self.config.dim : -1].flatten(0, 1)
        sizes = [layer.out_features for layer in self.head.modulation if isinstance(layer, nn.Linear)]
        scene = self.head.scene(self.norm(x).flatten(0, 1), last.flatten(0, 1))
        return self.head.denoise(noisy.flatten(0, 1), scene, told.split(sizes, -1)).view_as(noisy)

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
