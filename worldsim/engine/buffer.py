"""The design that denoises a moving buffer: each tick one frame enters as noise and one leaves clean."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.engine.backends import load_backend
from worldsim.engine.design_parts import StreamPart
from worldsim.engine.noise import RowNoise
from worldsim.engine.sampler import shift_levels
from worldsim.engine.session import to_host
from worldsim.engine.together import UNPRIMED, Starts, history, last
from worldsim.errors import WorldsimError
from worldsim.model.dit import DiT
from worldsim.model.patches import patchify, shown, to_uint8, unpatchify


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
        shift: Of the noise levels of the buffer's places, see :func:`~worldsim.engine.sampler.levels`; as it was
            taught.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`.

    Raises:
        WorldsimError: the model does not see all of the buffer.
    """

    def __init__(
        self,
        model: DiT,
        batch: int,
        frames: int,
        reference: int,
        passes: int = 1,
        shift: float = 1.0,
        backend: str = "eager",
    ) -> None:
        c, total = model.config, frames + reference
        if model.chunk not in (1, total) or (model.chunk == 1 and c.window < total):
            raise WorldsimError(f"a buffer of {total} frames needs one model over all, or a causal one that sees them")
        self._model, self._device = model, model.position.device
        self.own_delay = frames
        self._batch, self._frames, self._reference, self._shift = batch, frames, reference, shift
        self._shape = c.tokens, c.patch_dim
        self._noise: RowNoise | None = None
        with torch.inference_mode():
            loaded = load_backend(backend, self._device)
            example = (
                torch.zeros(batch, total, *self._shape, device=self._device),
                torch.zeros(batch, total, dtype=torch.int64, device=self._device),
            )
            self._denoise = loaded.prepare(StreamPart(model, frames, reference, passes, shift).eval(), example)

    @torch.inference_mode()
    def prime(self, start: Starts, seed: int) -> None:
        """See :class:`FrameGenerator`: what is on its way at the beginning are the start's last frames, noised."""
        n, r = self._frames, self._reference
        self._noise = noise = RowNoise(self._shape, range(seed, seed + self._batch))
        frames, led = history(start, self._batch, self._model)
        given = shown(patchify(frames.to(self._device), self._model.config), torch.float32)
        held = last(given, n + r - 1, given[:, :1])
        for i in range(1, n):
            level = shift_levels(i / n, self._shift)
            held[:, r + i - 1] = torch.lerp(held[:, r + i - 1], noise.draw().to(self._device), level)
        self._buffer = torch.cat((held, held[:, -1:]), 1)  # the last place is for the frame to come
        led = last(led, n + r - 1, torch.full_like(led[:, :1], self._model.no_action))
        self._led = torch.cat((led, led[:, -1:]), 1).to(self._device)

    @torch.inference_mode()
    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        r = self._reference
        if self._noise is None:
            raise WorldsimError(UNPRIMED)
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
