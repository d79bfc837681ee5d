"""Designs side by side: whatever makes a game's frames tick by tick, behind one surface.

An action is taken, a frame is shown; what lies between the two differs. A frame-causal design shows the action in the
very next frame. One that makes k frames together waits for the actions of all of them, and one that denoises a moving
buffer of n frames lets n - 1 older ones out first. Such a design runs behind the game: at first it shows the last
frames of its start once more. Delays are in ticks, 1 for the next frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine.backends import load_backend
from worldsim.engine.cache import RingCache
from worldsim.engine.design_parts import ChunkDenoisePart, ChunkRememberPart, ClipPart, StreamPart
from worldsim.engine.noise import RowNoise
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.sampler import levels
from worldsim.engine.session import Session, to_host
from worldsim.errors import StartError, WorldsimError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT
from worldsim.model.patches import patchify, shown, to_uint8, unpatchify
from worldsim.start import Start
from worldsim.world import World

Starts = Start | Sequence[Start]


class FrameGenerator(Protocol):
    """A design at work on some rows.

    Attributes:
        own_delay: Ticks from an action to the frame that is conditioned on it. The first ``own_delay - 1`` frames are
            the start's last ones.
    """

    own_delay: int

    def prime(self, start: Starts, seed: int) -> None:
        """Begin all rows at a start, or each at its own; row i draws its noise from ``seed + i``."""
        ...

    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The next frame of every row, uint8 [B, H, W, 3], when ``actions`` [B] are taken now."""
        ...

    def commit(self) -> None:
        """What can be done once the frame is shown."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def open_world(
    world: World,
    rows: int = 1,
    *,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    backend: str = "eager",
) -> FrameGenerator:
    """A world at work, whatever its design; settings are those of a :class:`Session`."""
    if world.config.design == SEPARABLE:
        return Separable(Session(world, rows, steps=steps, device=device, dtype=dtype, backend=backend))
    there, design = pick_device(device), Design.parse(world.config.design)
    network = world.network_on(there, pick_dtype(dtype, there))
    assert isinstance(network, DiT)
    return open_design(design, network, world.config.model, rows, steps or world.config.steps, backend)


def open_design(
    design: Design, model: DiT, config: ModelConfig, batch: int, steps: int, backend: str = "eager"
) -> FrameGenerator:
    """A design at work.

    Args:
        design: What it is.
        model: Its network, as :meth:`Design.make` gives it, in eval mode, on its device and in its dtype.
        config: Of the world, whose memory says how many clean frames go along.
        batch: Rows.
        steps: Denoising steps of a frame at least; a frame of a buffer has a whole number of them in each tick.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`.
    """
    reference = design.reference(config)
    if design.kind == "dit":
        return Chunks(model, batch, steps, backend)
    if design.kind == "clip":
        return Clips(model, batch, design.frames, reference, steps, backend)
    return Stream(model, batch, design.frames, reference, -(-steps // design.frames), backend)


class Separable:
    """Separable Causal Diffusion (arXiv 2602.10095), as the engine plays it: a :class:`Session`."""

    own_delay = 1

    def __init__(self, session: Session) -> None:
        self._session = session

    def prime(self, start: Starts, seed: int) -> None:
        """See :class:`FrameGenerator`."""
        self._session.reset(start=start if isinstance(start, Start) else list(start), seed=seed)

    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        return self._session.render(actions)

    def commit(self) -> None:
        """See :class:`FrameGenerator`."""
        self._session.commit()

    def close(self) -> None:
        """See :class:`FrameGenerator`."""
        self._session.close()


class _Together(ABC):
    """A design that makes k frames at a time, once the actions that lead to them are all taken."""

    def __init__(self, model: DiT, batch: int, frames: int) -> None:
        c = model.config
        self._model, self._device = model, model.position.device
        self.own_delay = frames
        self._batch, self._shape = batch, (frames, c.tokens, c.patch_dim)
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
        frames, led = _history(start, self._batch, self._model)
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

    def close(self) -> None:  # noqa: B027
        """See :class:`FrameGenerator`: there is nothing to let go of."""


class Chunks(_Together):
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
        super().__init__(model, batch, model.chunk)
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

    def _ring(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._cache.keys, self._cache.values, self._cache.bias(by_row=self._by_row)

    def _begin(self, frames: Tensor, led: Tensor) -> None:
        k = self._model.chunk
        self._cache.reset()
        for at in range(led.shape[1] % k, led.shape[1], k):  # the oldest frames that do not fill a chunk are left out
            self._keep(frames[:, at : at + k], led[:, at : at + k])

    def _make(self, led: Tensor) -> Tensor:
        made: Tensor = self._denoise(self._noise.draw().to(self._device), led, *self._ring())
        return made

    def _keep(self, patches: Tensor, led: Tensor) -> None:
        self._cache.write_chunk(*self._remember(patches, led, *self._ring()))


class Clips(_Together):
    """Bidirectional diffusion: k frames together with the last clean ones, all seeing each other.

    What a causal student is distilled from (CausVid's teacher, arXiv 2412.07772). Nothing can be cached: what is known
    of the clean frames depends on those that are being made.

    Args:
        model: Over ``reference + frames`` frames, ``chunk`` as many; in eval mode, on its device and in its dtype.
        batch: Rows.
        frames: k.
        reference: Clean frames beside them.
        steps: Denoising steps.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`.

    Raises:
        WorldsimError: the model is of another number of frames.
    """

    def __init__(self, model: DiT, batch: int, frames: int, reference: int, steps: int, backend: str = "eager") -> None:
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
            self._denoise = loaded.prepare(ClipPart(model, reference, levels(steps)).eval(), example)

    def _begin(self, frames: Tensor, led: Tensor) -> None:
        r, none = self._reference, self._model.no_action
        self._clean, self._led = _last(frames, r, frames[:, :1]), _last(led, r, torch.full_like(led[:, :1], none))

    def _make(self, led: Tensor) -> Tensor:
        noise = self._noise.draw().to(self._device)
        made: Tensor = self._denoise(noise, self._clean, torch.cat((self._led, led), 1))
        return made

    def _keep(self, patches: Tensor, led: Tensor) -> None:
        r = self._reference
        self._clean = torch.cat((self._clean, patches), 1)[:, -r:]
        self._led = torch.cat((self._led, led), 1)[:, -r:]


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
    def prime(self, start: Starts, seed: int) -> None:
        """See :class:`FrameGenerator`: what is on its way at the beginning are the start's last frames, noised."""
        n, r = self._frames, self._reference
        self._noise = RowNoise(self._shape, range(seed, seed + self._batch))
        frames, led = _history(start, self._batch, self._model)
        given = shown(patchify(frames.to(self._device), self._model.config), torch.float32)
        held = _last(given, n + r - 1, given[:, :1])
        for i in range(1, n):
            held[:, r + i - 1] = torch.lerp(held[:, r + i - 1], self._noise.draw().to(self._device), i / n)
        self._buffer = torch.cat((held, held[:, -1:]), 1)  # the last place is for the frame to come
        led = _last(led, n + r - 1, torch.full_like(led[:, :1], self._model.no_action))
        self._led = torch.cat((led, led[:, -1:]), 1).to(self._device)

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

    def close(self) -> None:
        """See :class:`FrameGenerator`: there is nothing to let go of."""


def _history(start: Starts, batch: int, model: DiT) -> tuple[Tensor, Tensor]:
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


def _last(held: Tensor, count: int, pad: Tensor) -> Tensor:
    """The last ``count`` along the second dimension, after as many of ``pad`` as are missing."""
    missing = max(0, count - held.shape[1])
    return torch.cat((*[pad] * missing, held[:, held.shape[1] - count + missing :]), 1)
