"""A trained network, whatever its design, as what is looked into: its attention along time, its blocks, its error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.data.clips import ClipStore
from worldsim.engine.sampler import Denoise, levels, sample
from worldsim.errors import WorldsimError
from worldsim.model.attention import TemporalAttention
from worldsim.model.dit import DiT
from worldsim.model.multiscale import MultiScaleAttention
from worldsim.model.patches import patchify, shown
from worldsim.model.world_model import WorldModel
from worldsim.training.progress import frame_error, held_out_error
from worldsim.world import World


class Specimen(ABC):
    """What is looked into.

    Attributes:
        window: Frames that attention along time sees.
        layers, heads: Of it.
        attention_block, denoising_block: What the blocks are called that attend along time, and those that run once a
            denoising step.
    """

    window: int
    layers: int
    heads: int
    attention_block = "block"
    denoising_block = "block"

    @property
    @abstractmethod
    def attentions(self) -> Sequence[TemporalAttention | MultiScaleAttention]:
        """Attention along time, block by block."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """What runs once a denoising step, in order."""

    @abstractmethod
    def weights(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """How much each frame of a clip looks at each, block by block: [B, L, h, T, T]."""

    @abstractmethod
    def denoising(self, store: ClipStore, place: int, seed: int, steps: int = 1) -> tuple[Denoise, Tensor]:
        """How the frames of a clip are denoised in so many steps given recorded ones, and the noise [N, L, P] that they
        are made of.
        """

    @abstractmethod
    def grid(self, made: Tensor) -> Tensor:
        """A block's output for the frames that are made, [N, rows, columns, channels]."""

    @abstractmethod
    def skipped(self, given: Tensor, made: Tensor) -> Tensor:
        """What a block would have given, had it been left out for the frames that are made."""

    @abstractmethod
    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """Error one frame ahead, see :func:`~worldsim.training.progress.held_out_error`."""


class Separable(Specimen):
    """A causal encoder, whose attention it is, and a decoder, whose blocks run once a step."""

    attention_block, denoising_block = "encoder block", "decoder block"

    def __init__(self, model: WorldModel) -> None:
        c = model.config
        self._model, self.window, self.layers, self.heads = model, c.window, c.encoder_layers, c.heads

    @property
    def attentions(self) -> Sequence[TemporalAttention | MultiScaleAttention]:
        """See :class:`Specimen`; at two scales, heads of the fine branch come before those of the coarse one."""
        kinds = TemporalAttention | MultiScaleAttention
        return [module for module in self._model.encoder.modules() if isinstance(module, kinds)]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :class:`Specimen`."""
        return self._model.decoder.repeated

    def weights(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """See :class:`Specimen`."""
        inputs: dict[nn.Module, Tensor] = {}
        with hooked(self.attentions, lambda module, given, made: inputs.update({module: given[0]})):
            self.denoising(store, place, seed)
        for attention, x in zip(self.attentions, inputs.values(), strict=True):
            yield attention.weights(x)

    def denoising(self, store: ClipStore, place: int, seed: int, steps: int = 1) -> tuple[Denoise, Tensor]:
        """See :class:`Specimen`: every frame but the first."""
        model, weight = self._model, next(self._model.parameters())
        clip, rng = store.draw(seed, 0, place)
        frames, actions = torch.from_numpy(clip.frames)[None], torch.from_numpy(clip.actions)[None].to(weight.device)
        patches = model.see(frames.to(weight.device), weight.dtype)
        previous, views = model.previous_actions(actions), model.views(patches)
        context = model.encode(views, previous, torch.zeros_like(previous))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(patches.shape[1] - 1, *patches.shape[2:], generator=generator)
        scene = model.scene(context[0, :-1], views[0, :-1])

        def denoise(x: Tensor, t: float) -> Tensor:
            level = torch.full((len(x),), t, device=x.device, dtype=x.dtype)
            size = torch.full_like(level, 1 / steps)
            return model.denoise(x, scene, model.modulations(level, actions[0], size))

        return denoise, noise.to(weight.device, weight.dtype)

    def grid(self, made: Tensor) -> Tensor:
        """See :class:`Specimen`: of tokens [N, L, D], or of grids with channels first."""
        if made.ndim == 3:
            return made.unflatten(1, (self._model.config.rows, self._model.config.columns))
        return made.permute(0, 2, 3, 1)

    def skipped(self, given: Tensor, made: Tensor) -> Tensor:
        """See :class:`Specimen`."""
        return given

    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """See :class:`Specimen`."""
        return held_out_error(self._model, store, clips, seed, steps)


class Monolithic(Specimen):
    """A frame-causal diffusion transformer: every block attends along time in every denoising step.

    The network that Separable Causal Diffusion's two findings are about. All frames of a clip are made at once, each
    given the clean ones before it (:meth:`~worldsim.model.dit.DiT.teach`), as a roll-out makes them one by one.
    """

    def __init__(self, network: DiT) -> None:
        c = network.config
        self._network, self.window, self.layers, self.heads = network, c.window, len(network.blocks), c.heads

    @property
    def attentions(self) -> Sequence[TemporalAttention | MultiScaleAttention]:
        """See :class:`Specimen`."""
        return [module for module in self._network.modules() if isinstance(module, TemporalAttention)]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :class:`Specimen`."""
        return list(self._network.blocks)

    def weights(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """See :class:`Specimen`: of frames made of pure noise, in their first denoising step."""
        inputs: dict[nn.Module, Tensor] = {}
        denoise, noise = self.denoising(store, place, seed)
        with hooked(self.attentions, lambda module, given, made: inputs.update({module: given[0]})):
            denoise(noise, 1.0)
        for attention, x in zip(self.attentions, inputs.values(), strict=True):
            assert isinstance(attention, TemporalAttention)
            t = x.shape[1] // 2
            noisy = attention.weights(x, attention.teacher_band(t))[..., t:, :]  # [B, L, h, T, 2 T]
            yield noisy[..., :t] + noisy[..., t:]  # clean ones before it, and of noisy ones itself alone

    def denoising(self, store: ClipStore, place: int, seed: int, steps: int = 1) -> tuple[Denoise, Tensor]:
        """See :class:`Specimen`: all frames."""
        network, weight = self._network, next(self._network.parameters())
        clip, rng = store.draw(seed, 0, place)
        clean, led = _clip(network, clip.frames, clip.actions)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(clean.shape[1:], generator=generator).to(weight.device, weight.dtype)

        def denoise(x: Tensor, t: float) -> Tensor:
            level = torch.full(led.shape, t, device=x.device, dtype=x.dtype)
            return network.teach(clean, x[None], level, led)[0]

        return denoise, noise

    def grid(self, made: Tensor) -> Tensor:
        """See :class:`Specimen`: of clean and noisy frames [1, 2 T, L, D]."""
        c = self._network.config
        return made[0, made.shape[1] // 2 :].unflatten(1, (c.rows, c.columns))

    def skipped(self, given: Tensor, made: Tensor) -> Tensor:
        """See :class:`Specimen`: clean frames went through it when they were kept."""
        half = made.shape[1] // 2
        return torch.cat((made[:, :half], given[:, half:]), 1)

    @torch.inference_mode()
    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """See :class:`Specimen`; of every frame but the first, which has none before it."""
        parts: list[tuple[Tensor, Tensor]] = []
        for place in range(clips):
            denoise, noise = self.denoising(store, place, seed, steps)
            clip, _ = store.draw(seed, 0, place)
            clean, _ = _clip(self._network, clip.frames, clip.actions)
            parts.append((sample(denoise, noise, levels(steps))[1:], clean[0]))
        return frame_error(parts, self._network.config)


def specimen(world: World, device: torch.device, dtype: torch.dtype) -> Specimen:
    """A world's network.

    Raises:
        WorldsimError: nobody knows how to look into its design.
    """
    network = world.network_on(device, dtype)
    if isinstance(network, WorldModel):
        return Separable(network)
    if world.config.design != "dit":
        raise WorldsimError(f"probe looks into designs scd and dit, and {world.name!r} is of {world.config.design}")
    return Monolithic(network)


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    """Have a hook told of what goes into modules and comes out; what it returns, if anything, comes out instead."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clip(network: DiT, frames: Any, actions: Any) -> tuple[Tensor, Tensor]:
    """Patches [1, T, L, P] in [-1, 1] and the actions that led to them, int64 [1, T]."""
    weight = next(network.parameters())
    clean = shown(patchify(torch.from_numpy(frames)[None].to(weight.device), network.config), weight.dtype)
    led = torch.cat((torch.tensor([network.no_action]), torch.from_numpy(actions)))
    return clean, led[None].to(weight.device)
