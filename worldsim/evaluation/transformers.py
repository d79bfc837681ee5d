"""Monolithic designs as what is looked into: every block attends along time in every denoising step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.data.clips import ClipStore
from worldsim.engine.design_parts import StreamPart
from worldsim.engine.sampler import Denoise, levels, sample, shift_levels
from worldsim.errors import WorldsimError
from worldsim.evaluation.specimen import AtOnce, Separable, Specimen, by_age, hooked
from worldsim.model.attention import TemporalAttention
from worldsim.model.designs import Design
from worldsim.model.dit import DiT
from worldsim.model.multiscale import MultiScaleAttention
from worldsim.model.patches import patchify, shown
from worldsim.model.world_model import WorldModel
from worldsim.training.progress import frame_error
from worldsim.world import World

Recorded = tuple[Tensor, Tensor, Tensor]


class Transformer(Specimen):
    """A diffusion transformer: what the separable design's two findings are about."""

    def __init__(self, network: DiT) -> None:
        self._network, self.layers, self.heads = network, len(network.blocks), network.config.heads

    @property
    def attentions(self) -> Sequence[TemporalAttention | MultiScaleAttention]:
        """See :class:`Specimen`."""
        return [module for module in self._network.modules() if isinstance(module, TemporalAttention)]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :class:`Specimen`."""
        return list(self._network.blocks)

    def _clip(self, store: ClipStore, place: int, seed: int) -> Recorded:
        """Recorded frames as patches [1, T, L, P], the actions that led to them int64 [1, T], and noise [T, L, P]."""
        weight = next(self._network.parameters())
        clip, rng = store.draw(seed, 0, place)
        frames = torch.from_numpy(clip.frames[: self.length])[None].to(weight.device)
        clean = shown(patchify(frames, self._network.config), weight.dtype)
        led = torch.cat((torch.tensor([self._network.no_action]), torch.from_numpy(clip.actions)))[: self.length]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(clean.shape[1:], generator=generator).to(weight.device, weight.dtype)
        return clean, led[None].to(weight.device), noise

    def _watched(self, run: Callable[[], Any]) -> Iterator[tuple[TemporalAttention, Tensor]]:
        """Each attention along time with what went into it, [B, T, L, D]; the last time that it was called."""
        inputs: dict[nn.Module, Tensor] = {}
        with hooked(self.attentions, lambda module, given, made: inputs.update({module: given[0]})):
            run()
        for attention, x in zip(self.attentions, inputs.values(), strict=True):
            assert isinstance(attention, TemporalAttention)
            yield attention, x

    def _grid(self, tokens: Tensor) -> Tensor:  # [..., L, D] -> [..., rows, columns, D]
        c = self._network.config
        return tokens.unflatten(-2, (c.rows, c.columns))


class Together(Transformer, AtOnce):
    """What makes all frames of a clip that are not given at once.

    Args:
        network: Of the design.
        first: The first frame whose error tells something of it.
    """

    def __init__(self, network: DiT, first: int) -> None:
        super().__init__(network)
        self._first = first

    @torch.inference_mode()
    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """See :class:`Specimen`; of frames from the first on that has any before it that are given."""
        parts: list[tuple[Tensor, Tensor]] = []
        for place in range(clips):
            denoise, noise = self.denoising(store, place, seed, steps)
            clean, _, _ = self._clip(store, place, seed)
            made = sample(denoise, noise, levels(steps, self.shift))
            parts.append((made[self._first - self.length :], clean[0, self._first - 1 :]))
        return frame_error(parts, self._network.config)


class Chunked(Together):
    """Frame- or chunk-causal. All chunks of a clip are made at once, each given the clean frames before it
    (:meth:`~worldsim.model.dit.DiT.teach`), as a roll-out makes them one by one.
    """

    def __init__(self, network: DiT) -> None:
        chunk, window = network.chunk, network.config.window
        super().__init__(network, chunk)
        self.length = -(-2 * window // chunk) * chunk
        self.ages = range(1 - chunk, window + chunk - 1)
        self._whole = -(-(window - 1) // chunk) * chunk  # the first frame with all of its window

    def shares(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """See :class:`Specimen`: of frames made of pure noise, in their first denoising step."""
        denoise, noise = self.denoising(store, place, seed)
        for attention, x in self._watched(lambda: denoise(noise, 1.0)):
            t = x.shape[1] // 2
            noisy = attention.weights(x, attention.teacher_band(t))[..., t:, :]  # [B, L, h, T, 2 T]
            # Clean ones of earlier chunks, noisy ones of its own.
            yield by_age(noisy[..., :t] + noisy[..., t:], self._whole, t, self.ages)

    def denoising(self, store: ClipStore, place: int, seed: int, steps: int = 1) -> tuple[Denoise, Tensor]:
        """See :class:`AtOnce`: all frames."""
        network, (clean, led, noise) = self._network, self._clip(store, place, seed)

        def denoise(x: Tensor, t: float) -> Tensor:
            level = torch.full(led.shape, t, device=x.device, dtype=x.dtype)
            return network.teach(clean, x[None], level, led)[0]

        return denoise, noise

    def grid(self, made: Tensor) -> Tensor:
        """See :class:`AtOnce`: of clean and noisy frames [1, 2 T, L, D]."""
        return self._grid(made[0, made.shape[1] // 2 :])

    def skipped(self, given: Tensor, made: Tensor) -> Tensor:
        """See :class:`AtOnce`: clean frames went through it when they were kept."""
        half = made.shape[1] // 2
        return torch.cat((made[:, :half], given[:, half:]), 1)


class Clipped(Together):
    """Bidirectional over a clip, whose first frames are given and whose others are made together."""

    def __init__(self, network: DiT, frames: int) -> None:
        super().__init__(network, network.chunk - frames)
        self.length = network.chunk
        self.ages = range(1 - frames, self.length)

    def shares(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """See :class:`Specimen`: of frames made of pure noise, in their first denoising step."""
        denoise, noise = self.denoising(store, place, seed)
        for attention, x in self._watched(lambda: denoise(noise, 1.0)):
            yield by_age(attention.weights(x), self._first, self.length, self.ages)

    def denoising(self, store: ClipStore, place: int, seed: int, steps: int = 1) -> tuple[Denoise, Tensor]:
        """See :class:`AtOnce`: the frames that are made together."""
        network, (clean, led, noise) = self._network, self._clip(store, place, seed)
        given = self._first

        def denoise(x: Tensor, t: float) -> Tensor:
            level = torch.full(led.shape, t, device=x.device, dtype=x.dtype)
            level[:, :given] = 0
            return network(torch.cat((clean[:, :given], x[None]), 1), level, led)[0, given:]

        return denoise, noise[given:]

    def grid(self, made: Tensor) -> Tensor:
        """See :class:`AtOnce`: of all frames of the clip [1, T, L, D]."""
        return self._grid(made[0, self._first :])

    def skipped(self, given: Tensor, made: Tensor) -> Tensor:
        """See :class:`AtOnce`: nothing is kept of clean frames, so they do without it too."""
        return given


class Buffered(Transformer):
    """A moving buffer, whose frames are each at a noise level of their own: a frame's steps are those of n ticks.

    It moves along a clip with the recorded frames as its clean ones. What was in it at the beginning was made of them
    too, and is not looked at.
    """

    def __init__(self, network: DiT, frames: int, reference: int) -> None:
        super().__init__(network)
        self._frames, self._reference, total = frames, reference, frames + reference
        self.length = 2 * total
        self.ages = range(total) if network.chunk == 1 else range(1 - frames, total)

    def shares(self, store: ClipStore, place: int, seed: int) -> Iterator[Tensor]:
        """See :class:`Specimen`: of all frames of the buffer, at the last of its places along the clip."""
        for attention, x in self._watched(lambda: self._move(store, place, seed, 1)):
            yield by_age(attention.weights(x), self._reference, x.shape[1], self.ages)

    def features(self, store: ClipStore, place: int, seed: int, steps: int) -> list[list[Tensor]]:
        """See :class:`Specimen`."""
        held: dict[nn.Module, list[Tensor]] = {block: [] for block in self.blocks}
        with hooked(self.blocks, lambda block, given, made: held[block].append(made[0, self._reference :])):
            self._move(store, place, seed, steps)
        n, passes, ticks = self._frames, self._passes(steps), len(held[self.blocks[0]]) // self._passes(steps)
        through = range(ticks - n + 1)  # frames that enter as noise and leave clean, by the tick in which they enter
        return [
            [
                self._grid(torch.stack([calls[(tick + older) * passes + turn][n - 1 - older] for tick in through]))
                for older in range(n)
                for turn in range(passes)
            ]
            for calls in held.values()
        ]

    def skipper(self, steps: int) -> Callable[[nn.Module, Any, Any], Any]:
        """See :class:`Specimen`: a frame's first step is its first tick, in which it is the newest."""

        def hook(block: nn.Module, given: Any, made: Any) -> Any:
            return torch.cat((given[0][:, :-1], made[:, -1:]), 1)

        return hook

    @torch.inference_mode()
    def error(self, store: ClipStore, clips: int, seed: int, steps: int) -> dict[str, float]:
        """See :class:`Specimen`; of frames that leave the buffer, n ticks after they entered it."""
        parts: list[tuple[Tensor, Tensor]] = []
        for place in range(clips):
            clean, _, _ = self._clip(store, place, seed)
            made = self._move(store, place, seed, steps)
            first = self._reference + self._frames - 1  # the first frame that entered as noise
            parts.append((made, clean[0, first - 1 : first + len(made)]))
        return frame_error(parts, self._network.config)

    def _passes(self, steps: int) -> int:
        return -(-steps // self._frames)

    def _move(self, store: ClipStore, place: int, seed: int, steps: int) -> Tensor:
        """The frames [N, L, P] that entered as noise and have left, the buffer having moved along a whole clip."""
        n, r, (clean, led, noise) = self._frames, self._reference, self._clip(store, place, seed)
        part = StreamPart(self._network, n, r, self._passes(steps), self.shift).eval()
        level = torch.arange(1, n + 1, device=clean.device, dtype=clean.dtype)[:, None, None] / n
        level = shift_levels(level, self.shift)
        buffer = torch.lerp(clean[0, r : r + n], noise[r : r + n], level)[None]  # the newest is noise alone
        left: list[Tensor] = []
        for at in range(self.length - r - n + 1):  # the clip's place of the oldest clean frame
            made = part(torch.cat((clean[:, at : at + r], buffer), 1), led[:, at : at + r + n]).to(clean)
            left.append(made[0, 0])
            entering = noise[None, at + r + n : at + r + n + 1]
            buffer = torch.cat((made[:, 1:], entering), 1)
        return torch.stack(left[n - 1 :])


def specimen(world: World, device: torch.device, dtype: torch.dtype) -> Specimen:
    """A world's network.

    Raises:
        WorldsimError: nobody knows how to look into its design.
    """
    made = _made(world, world.network_on(device, dtype))
    made.shift = world.config.shift
    return made


def _made(world: World, network: WorldModel | DiT) -> Specimen:
    if isinstance(network, WorldModel):
        return Separable(network)
    design = Design.parse(world.config.design)
    if design.kind == "dit":
        return Chunked(network)
    if design.kind == "clip":
        return Clipped(network, design.frames)
    if design.kind == "stream-windows":
        raise WorldsimError(
            f"probe tells attention along time from that within a frame, which {design} of {world.name!r} does not: "
            "name a world of design scd, dit, clip, stream or stream-causal"
        )
    return Buffered(network, design.frames, design.reference(world.config.model))
