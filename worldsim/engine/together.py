"""Designs that make several frames at a time: in causal chunks with a KV cache, or in bidirectional clips without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine.backends import load_backend
from worldsim.engine.cache import RingCache
from worldsim.engine.design_parts import ChunkDenoisePart, ChunkRememberPart, ClipPart
from worldsim.engine.noise import RowNoise
from worldsim.engine.sampler import levels
from worldsim.engine.session import to_host
from worldsim.errors import StartError, WorldsimError
from worldsim.model.dit import DiT
from worldsim.model.patches import patchify, shown, to_uint8, unpatchify
from worldsim.start import Start

Starts = Start | Sequence[Start]
UNPRIMED = "cannot render: prime() first"


class Together(ABC):
    """A design that makes k frames at a time, once the actions that lead to them are all taken."""

    def __init__(self, model: DiT, batch: int, frames: int) -> None:
        c = model.config
        self._model, self._device = model, model.position.device
        self.own_delay = frames
        self._batch, self._shape = batch, (frames, c.tokens, c.patch_dim)
        self._noise: RowNoise | None = None
        self._taken: list[Tensor] = []
        self._ready: deque[NDArray[np.uint8]] = deque()
        self._unseen: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def _begin(self, frames: Tensor, led: Tensor) -> None:
        """Remember starts: patches [B, T, L, P] as they were shown and the actions [B, T] that led to them."""

    @abstractmethod
    def _make(self, led: Tensor) -> Tensor:
        """x0 [B, k, L, P] of the frames that actions [B, k] lead to."""

    @abstractmethod
    def _keep(self, patches: Tensor, led: Tensor) -> None:
        """Remember frames that were made, as they are shown."""

    @torch.inference_mode()
    def prime(self, start: Starts, seed: int) -> None:
        """See :class:`FrameGenerator`."""
        frames, led = history(start, self._batch, self._model)
        self._noise = RowNoise(self._shape, range(seed, seed + self._batch))
        patches = patchify(frames.to(self._device), self._model.config)
        self._begin(shown(patches, torch.float32), led.to(self._device))
        late = range(len(led[0]) - self.own_delay + 1, len(led[0]))
        self._ready = deque(frames[:, max(0, i)].numpy() for i in late)
        self._taken.clear()
        self._unseen = None

    @torch.inference_mode()
    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        if self._noise is None:
            raise WorldsimError(UNPRIMED)
        self._taken.append(torch.from_numpy(np.asarray(actions, np.int64)).to(self._device))
        if len(self._taken) == self.own_delay:
            led = torch.stack(self._taken, 1)  # [B, k]
            self._taken.clear()
            grey = to_uint8(self._make(led))
            self._unseen = shown(grey, torch.float32), led
            self._ready.extend(to_host(frame) for frame in unpatchify(grey, self._model.config).unbind(1))
        return self._ready.popleft()

    @torch.inference_mode()
    def commit(self) -> None:
        """See :class:`FrameGenerator`: clean frames are remembered as soon as the first of them is shown."""
        if self._unseen is not None:
            self._keep(*self._unseen)
            self._unseen = None

    def _drawn(self) -> Tensor:
        """Noise [B, k, L, P]."""
        assert self._noise is not None
        return self._noise.draw().to(self._device)

    def close(self) -> None:  # noqa: B027
        """See :class:`FrameGenerator`: there is nothing to let go of."""


class Chunks(Together):
    """Chunk-causal diffusion with a KV cache: k frames at a time, then a pass over the clean ones.

    CausVid's Algorithm 2 (arXiv 2412.07772), with actions: each leads to one frame. Those of a chunk must be known
    before it is made, so each is shown k ticks after it was taken; the game is played with k - 1 ticks of lag.

    Args:
        model: In eval mode, on its device and in its dtype; ``model.chunk`` is k.
        batch: Rows.
        steps: Denoising steps of a chunk.
        shift: Of their noise levels, see :func:`~worldsim.engine.sampler.levels`.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`; rows are primed with it too.
    """

    def __init__(self, model: DiT, batch: int, steps: int, shift: float = 1.0, backend: str = "eager") -> None:
        super().__init__(model, batch, model.chunk)
        with torch.inference_mode():
            self._cache = cache = RingCache(model, batch)
            self._blank = [model.blank()] if model.looks else []
            self._seen = [view.expand(batch, -1, -1).clone() for view in self._blank]  # of the last frame
            loaded = load_backend(backend, self._device)
            self._by_row = loaded.fixed_shapes
            example = (
                torch.zeros(batch, *self._shape, device=self._device),
                torch.zeros(batch, model.chunk, dtype=torch.int64, device=self._device),
                *self._ring(),
            )
            self._denoise = loaded.prepare(ChunkDenoisePart(model, levels(steps, shift)).eval(), example)
            self._remember = loaded.prepare(ChunkRememberPart(model).eval(), example)
        self._cache = cache

    def _ring(self) -> tuple[Tensor, ...]:
        return self._cache.keys, self._cache.values, self._cache.bias(by_row=self._by_row), *self._seen

    def _begin(self, frames: Tensor, led: Tensor) -> None:
        k = self._model.chunk
        self._cache.reset()
        for view, blank in zip(self._seen, self._blank, strict=True):
            view.copy_(blank)
        for at in range(led.shape[1] % k, led.shape[1], k):  # the oldest frames that do not fill a chunk are left out
            self._keep(frames[:, at : at + k], led[:, at : at + k])

    def _make(self, led: Tensor) -> Tensor:
        made: Tensor = self._denoise(self._drawn(), led, *self._ring())
        return made

    def _keep(self, patches: Tensor, led: Tensor) -> None:
        keys, values, *seen = self._remember(patches, led, *self._ring())
        self._cache.write_chunk(keys, values)
        for held, new in zip(self._seen, seen, strict=True):
            held.copy_(new)


class Clips(Together):
    """Bidirectional diffusion: k frames together with the last clean ones, all seeing each other.

    What a causal student is distilled from (CausVid's teacher, arXiv 2412.07772). Nothing can be cached: what is known
    of the clean frames depends on those that are being made.

    Args:
        model: Over ``reference + frames`` frames, ``chunk`` as many; in eval mode, on its device and in its dtype.
        batch: Rows.
        frames: k.
        reference: Clean frames beside them.
        steps: Denoising steps.
        shift: Of their noise levels, see :func:`~worldsim.engine.sampler.levels`.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`.

    Raises:
        WorldsimError: the model is of another number of frames.
    """

    def __init__(
        self,
        model: DiT,
        batch: int,
        frames: int,
        reference: int,
        steps: int,
        shift: float = 1.0,
        backend: str = "eager",
    ) -> None:
        super().__init__(model, batch, frames)
        total = frames + reference
        if model.chunk != total:
            raise WorldsimError(f"a clip of {total} frames needs a model over as many, not {model.chunk}")
        self._reference = reference
        with torch.inference_mode():
            loaded = load_backend(backend, self._device)
            example = (
                torch.zeros(batch, *self._shape, device=self._device),
                torch.zeros(batch, reference, *self._shape[1:], device=self._device),
                torch.zeros(batch, total, dtype=torch.int64, device=self._device),
            )
            self._denoise = loaded.prepare(ClipPart(model, reference, levels(steps, shift)).eval(), example)

    def _begin(self, frames: Tensor, led: Tensor) -> None:
        r, none = self._reference, self._model.no_action
        self._clean, self._led = last(frames, r, frames[:, :1]), last(led, r, torch.full_like(led[:, :1], none))

    def _make(self, led: Tensor) -> Tensor:
        made: Tensor = self._denoise(self._drawn(), self._clean, torch.cat((self._led, led), 1))
        return made

    def _keep(self, patches: Tensor, led: Tensor) -> None:
        r = self._reference
        self._clean = torch.cat((self._clean, patches), 1)[:, -r:]
        self._led = torch.cat((self._led, led), 1)[:, -r:]


def history(start: Starts, batch: int, model: DiT) -> tuple[Tensor, Tensor]:
    """Frames uint8 [B, T, H, W, 3] of all rows' starts, and the actions [B, T] that led to them.

    Raises:
        StartError: not one start for each row, or of different lengths.
    """
    starts = [start] * batch if isinstance(start, Start) else list(start)
    if len(starts) != batch or len({len(one.frames) for one in starts}) != 1:
        raise StartError(f"give one start, or {batch} of one length, to {batch} rows")
    frames = torch.from_numpy(np.stack([one.frames for one in starts]))
    actions = torch.from_numpy(np.stack([one.actions for one in starts]).astype(np.int64))
    return frames, torch.cat((torch.full((batch, 1), model.no_action), actions), 1)


def last(held: Tensor, count: int, pad: Tensor) -> Tensor:
    """The last ``count`` along the second dimension, after as many of ``pad`` as are missing."""
    missing = max(0, count - held.shape[1])
    return torch.cat((*[pad] * missing, held[:, held.shape[1] - count + missing :]), 1)
