"""A trained network, whatever its design, as what is looked into: its attention along time, its blocks, its error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.data.clips import ClipStore
from worldsim.engine.sampler import Denoise, levels, sample
from worldsim.model.attention import TemporalAttention
from worldsim.model.cue import cues
from worldsim.model.multiscale import MultiScaleAttention
from worldsim.model.world_model import WorldModel
from worldsim.training.progress import held_out_error


class Specimen(ABC):
    """What is looked into.

    Attributes:
        length: Frames of the clips that it is looked into with, at least.
        ages: Of the frames that attention along time sees, 0 the frame itself; below 0 are frames after it.
        layers, heads: Of it.
        attention_block, denoising_block: What the blocks are called that attend along time, and those that run once a
            denoising step.
        shift: Of the noise levels of denoising steps, see :func:`~worldsim.engine.sampler.levels`.
    """

    length: int
    ages: range
    layers: int
    heads: int
    attention_block = "block"
    denoising_block = "block"
    shift = 1.0

    @property
    @abstractmethod
    def attentions(self) -> Sequence[TemporalAttention | MultiScaleAttention]:
        """Attention along time, block by block."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """What runs once a denoising step, in order."""

    @abstractmethod
    def shares(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """How much frames of a clip that have a whole window before them look at those of each age, block by block:
        [B, L, h, frames, ages]; sums to 1 along ages.
        """

    @abstractmethod
    def features(self, store: ClipStore, place: int, seed: int, steps: int) -> list[list[Tensor]]:
        """What each block gives in each denoising step for the same frames of a clip: [N, rows, columns, channels].

        Of a buffer's frames the steps are those of as many ticks, so there may be more of them than were asked for.
        """

    @abstractmethod
    def skipper(self, steps: int) -> Callable[[nn.Module, Any, Any], Any]:
        """A hook that leaves a block out in all of a frame's denoising steps but the first."""

    @abstractmethod
    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """Error one frame ahead, see :func:`~worldsim.training.progress.held_out_error`."""


class AtOnce(Specimen):
    """What makes frames together at one noise level, so that a sampler runs over all of them at once."""

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

    def features(self, store: ClipStore, place: int, seed: int, steps: int) -> list[list[Tensor]]:
        """See :class:`Specimen`."""
        denoise, noise = self.denoising(store, place, seed, steps)
        made: list[Tensor] = []
        with hooked(self.blocks, lambda block, given, result: made.append(self.grid(result))):
            sample(denoise, noise, levels(steps, self.shift))
        return [made[block :: len(self.blocks)] for block in range(len(self.blocks))]

    def skipper(self, steps: int) -> Callable[[nn.Module, Any, Any], Any]:
        """See :class:`Specimen`."""
        calls: Counter[nn.Module] = Counter()

        def hook(block: nn.Module, given: Any, made: Any) -> Any:
            calls[block] += 1
            return made if calls[block] % steps == 1 else self.skipped(given[0], made)

        return hook


class Separable(AtOnce):
    """A causal encoder, whose attention it is, and a decoder, whose blocks run once a step."""

    attention_block, denoising_block = "encoder block", "decoder block"

    def __init__(self, model: WorldModel) -> None:
        c = model.config
        self._model, self.layers, self.heads = model, c.encoder_layers, c.heads
        self.length, self.ages = 2 * c.window, range(c.window)

    @property
    def attentions(self) -> Sequence[TemporalAttention | MultiScaleAttention]:
        """See :class:`Specimen`; at two scales, heads of the fine branch come before those of the coarse one."""
        kinds = TemporalAttention | MultiScaleAttention
        return [module for module in self._model.encoder.modules() if isinstance(module, kinds)]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :class:`Specimen`."""
        return self._model.decoder.repeated

    def shares(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """See :class:`Specimen`."""
        inputs: dict[nn.Module, Tensor] = {}
        with hooked(self.attentions, lambda module, given, made: inputs.update({module: given[0]})):
            self.denoising(store, place, seed)
        for attention, x in zip(self.attentions, inputs.values(), strict=True):
            yield by_age(attention.weights(x), self.ages.stop - 1, x.shape[1], self.ages)

    def denoising(self, store: ClipStore, place: int, seed: int, steps: int = 1) -> tuple[Denoise, Tensor]:
        """See :class:`AtOnce`: every frame but the first."""
        model, weight = self._model, next(self._model.parameters())
        clip, rng = store.draw(seed, 0, place)
        frames, actions = torch.from_numpy(clip.frames)[None], torch.from_numpy(clip.actions)[None].to(weight.device)
        told = cues(actions, torch.from_numpy(clip.since[:-1]).to(weight.device), model.config)
        patches = model.see(frames.to(weight.device), weight.dtype)
        previous, views = model.previous_actions(actions), model.views(patches)
        context = model.encode(views, previous, torch.zeros_like(previous))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(patches.shape[1] - 1, *patches.shape[2:], generator=generator)
        scene = model.scene(context[0, :-1], views[0, :-1])

        def denoise(x: Tensor, t: float) -> Tensor:
            level = torch.full((len(x),), t, device=x.device, dtype=x.dtype)
            size = torch.full_like(level, 1 / steps)
            return model.denoise(x, scene, model.modulations(level, told[0], size))

        return denoise, noise.to(weight.device, weight.dtype)

    def grid(self, made: Tensor) -> Tensor:
        """See :class:`AtOnce`: of tokens [N, L, D], or of grids with channels first."""
        if made.ndim == 3:
            return made.unflatten(1, (self._model.config.rows, self._model.config.columns))
        return made.permute(0, 2, 3, 1)

    def skipped(self, given: Tensor, made: Tensor) -> Tensor:
        """See :class:`AtOnce`."""
        return given

    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """See :class:`Specimen`."""
        return held_out_error(self._model, store, clips, seed, steps, self.shift)


def by_age(weights: Tensor, first: int, end: int, ages: range) -> Tensor:
    """How much frames look at others [..., T, T] by the age of those: frames first ... end - 1, [..., frames, ages].

    Frames that are not there are not looked at.
    """
    frame = torch.arange(first, end, device=weights.device)
    at = frame[:, None] - torch.tensor(ages, device=weights.device)
    there = (at >= 0) & (at < weights.shape[-1])
    rows = weights[..., first:end, :]
    return rows.gather(-1, at.clamp(0, weights.shape[-1] - 1).expand(*rows.shape[:-1], len(ages))) * there


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    """Have a hook told of what goes into modules and comes out; what it returns, if anything, comes out instead."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
