"""Designs side by side: whatever makes a game's frames tick by tick, behind one surface.

An action is taken, a frame is shown; what lies between the two differs. A frame-causal design shows the action in the
very next frame. One that makes k frames together has shown them before the next action can change anything, and one
that denoises a moving buffer of n frames lets n - 1 older ones out first. Delays are in ticks, 1 for the next frame.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine.backends import load_backend
from worldsim.engine.cache import RingCache
from worldsim.engine.design_parts import ChunkDenoisePart, ChunkRememberPart, StreamPart
from worldsim.engine.noise import RowNoise
from worldsim.engine.sampler import levels
from worldsim.engine.session import Session, to_host
from worldsim.errors import WorldsimError
from worldsim.model.dit import DiT
from worldsim.model.patches import patchify, shown, to_uint8, unpatchify
from worldsim.start import Start


class FrameGenerator(Protocol):
    """A design at work on some rows.

    Attributes:
        own_delay: Ticks from an action to the frame that is conditioned on it.
    """

    own_delay: int

    def prime(self, start: Start, seed: int) -> None:
        """Begin all rows at a start; row i draws its noise from ``seed + i``."""
        ...

    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The next frame of every row, uint8 [B, H, W, 3], when ``actions`` [B] are taken now."""
        ...

    def commit(self) -> None:
        """What can be done once the frame is shown."""
        ...


class Separable:
    """Separable Causal Diffusion (arXiv 2602.10095), as the engine plays it: a :class:`Session`."""

    own_delay = 1

    def __init__(self, session: Session) -> None:
        self._session = session

    def prime(self, start: Start, seed: int) -> None:
        """See :class:`FrameGenerator`."""
        self._session.reset(start=start, seed=seed)

    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        return self._session.render(actions)

    def commit(self) -> None:
        """See :class:`FrameGenerator`."""
        self._session.commit()


class Chunks:
    """Chunk-causal diffusion with a KV cache: k frames at a time, then a pass over the clean ones.

    CausVid's Algorithm 2 (arXiv 2412.07772), with actions: each leads to one frame. Those of a chunk must be known
    before it is made, so each is shown k ticks after it was taken; the game is played with k - 1 ticks of lag.

    Args:
        model: In eval mode, on its device and in its dtype; ``model.chunk`` is k.
        batch: Rows.
        steps: Denoising steps of a chunk.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`; rows are primed with it too.
    """

    def __init__(self, model: DiT, batch: int, steps: int, backend: str = "eager") -> None:
        c, weight = model.config, model.position
        self._model, self._device = model, weight.device
        self.own_delay = model.chunk
        self._batch, self._shape = batch, (model.chunk, c.tokens, c.patch_dim)
        with torch.inference_mode():
            self._cache = cache = RingCache(model, batch)
            loaded = load_backend(backend, self._device)
            self._by_row = loaded.fixed_shapes
            example = (
                torch.zeros(batch, *self._shape, device=self._device),
                torch.zeros(batch, model.chunk, dtype=torch.int64, device=self._device),
                *self._ring(),
            )
            self._denoise = loaded.prepare(ChunkDenoisePart(model, levels(steps)).eval(), example)
            self._remember = loaded.prepare(ChunkRememberPart(model).eval(), example)
        self._cache = cache
        self._taken: deque[Tensor] = deque(maxlen=model.chunk)
        self._ready: deque[NDArray[np.uint8]] = deque()
        self._unseen: tuple[Tensor, Tensor] | None = None

    def _ring(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._cache.keys, self._cache.values, self._cache.bias(by_row=self._by_row)

    @torch.inference_mode()
    def prime(self, start: Start, seed: int) -> None:
        """See :class:`FrameGenerator`; the oldest frames that do not fill a chunk are left out."""
        model, k = self._model, self._model.chunk
        given = torch.from_numpy(start.frames)
        past = torch.cat((torch.tensor([model.no_action]), torch.from_numpy(start.actions).to(torch.int64)))
        first = len(given) % k
        self._cache.reset()
        self._noise = RowNoise(self._shape, range(seed, seed + self._batch))
        for at in range(first, len(given), k):
            patches = patchify(given[at : at + k].to(self._device), model.config)
            seen = shown(patches, torch.float32).expand(self._batch, *self._shape)
            self._keep(seen, past[at : at + k].to(self._device).expand(self._batch, k))
        self._ready.clear()
        self._taken.clear()
        self._unseen = None

    @torch.inference_mode()
    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        k = self._model.chunk
        self._taken.append(torch.from_numpy(np.asarray(actions, np.int64)).to(self._device))
        if not self._ready:
            while len(self._taken) < k:  # a game's first chunk: as if the first action had been held
                self._taken.appendleft(self._taken[0])
            led = torch.stack(tuple(self._taken), 1)  # [B, k], the latest for the last frame
            patches = self._denoise(self._noise.draw().to(self._device), led, *self._ring())
            grey = to_uint8(patches)
            self._unseen = shown(grey, torch.float32), led
            self._ready.extend(to_host(frame) for frame in unpatchify(grey, self._model.config).unbind(1))
        return self._ready.popleft()

    @torch.inference_mode()
    def commit(self) -> None:
        """See :class:`FrameGenerator`: the pass over a clean chunk, as soon as its first frame is shown."""
        if self._unseen is not None:
            self._keep(*self._unseen)
            self._unseen = None

    def _keep(self, patches: Tensor, led: Tensor) -> None:
        self._cache.write_chunk(*self._remember(patches, led, *self._ring()))


class Stream:
    """A moving buffer of n frames at rising noise levels, denoised together (StreamDiT, arXiv 2507.03745).

    In each tick a frame of pure noise enters with the action just taken, all frames of the buffer are denoised by one
    n-th, and the oldest leaves it clean. The last clean frames go along as a reference. Nothing can be kept from one
    tick to the next: all of the buffer changes.

    Args:
        model: Over ``reference + frames`` frames: ``chunk`` as many, in which all see each other, or 1 for the variant
            that is causal within the window.
        batch: Rows.
        frames: n, the buffer's.
        reference: Clean frames beside them.
        passes: Of the model in a tick; a frame takes n times as many denoising steps.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`.

    Raises:
        WorldsimError: the model does not see all of the buffer.
    """

    def __init__(
        self, model: DiT, batch: int, frames: int, reference: int, passes: int = 1, backend: str = "eager"
    ) -> None:
        c, total = model.config, frames + reference
        if model.chunk not in (1, total) or (model.chunk == 1 and c.window < total):
            raise WorldsimError(f"a buffer of {total} frames needs one model over all, or a causal one that sees them")
        self._model, self._device = model, model.position.device
        self.own_delay = frames
        self._batch, self._frames, self._reference = batch, frames, reference
        self._shape = c.tokens, c.patch_dim
        with torch.inference_mode():
            loaded = load_backend(backend, self._device)
            example = (
                torch.zeros(batch, total, *self._shape, device=self._device),
                torch.zeros(batch, total, dtype=torch.int64, device=self._device),
            )
            self._denoise = loaded.prepare(StreamPart(model, frames, reference, passes).eval(), example)

    @torch.inference_mode()
    def prime(self, start: Start, seed: int) -> None:
        """See :class:`FrameGenerator`: what is on its way at the beginning is the last frame standing still, noised."""
        n, r, c = self._frames, self._reference, self._model.config
        self._noise = RowNoise(self._shape, range(seed, seed + self._batch))
        given = shown(patchify(torch.from_numpy(start.frames).to(self._device), c), torch.float32)
        last = given[-1].expand(self._batch, *self._shape)
        clean = [given[max(0, len(given) - r + i)].expand(self._batch, *self._shape) for i in range(r)]
        on_the_way = []
        for i in range(1, n):
            noise = self._noise.draw().to(self._device)
            on_the_way.append(torch.lerp(last, noise, i / n))
        self._buffer = torch.stack([*clean, *on_the_way, last], 1)
        past = [self._model.no_action] * (n + r) + start.actions.tolist()
        led = [*past[len(past) - r :], *[past[-1]] * n]
        self._led = torch.tensor(led, device=self._device).expand(self._batch, n + r).clone()

    @torch.inference_mode()
    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        r = self._reference
        self._buffer[:, -1] = self._noise.draw().to(self._device)
        self._led[:, -1] = torch.from_numpy(np.asarray(actions, np.int64)).to(self._device)
        made = self._denoise(self._buffer, self._led)  # [B, n, L, P], the first of them clean
        grey = to_uint8(made[:, 0])
        self._made = torch.cat((self._buffer[:, 1:r], shown(grey, torch.float32).unsqueeze(1)), 1) if r else None, made
        return to_host(unpatchify(grey, self._model.config))

    @torch.inference_mode()
    def commit(self) -> None:
        """See :class:`FrameGenerator`: everything moves on by one place."""
        clean, made = self._made
        parts = [] if clean is None else [clean]
        self._buffer = torch.cat((*parts, made[:, 1:], made[:, -1:]), 1)  # the last place is for the frame to come
        self._led = torch.cat((self._led[:, 1:], self._led[:, -1:]), 1)
