"""What the rows of a session remember between ticks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine.backends import Part
from worldsim.engine.cache import make_cache
from worldsim.engine.prime import prime
from worldsim.model.trail import after
from worldsim.model.world_model import WorldModel
from worldsim.start import Start


class Memory:
    """The ring of every row, its last frame, and what the networks know of that.

    Args:
        model: Whose rows, on the device and in the dtype that they are to be in.
        batch: Rows.
        context_level: Context-noise bucket that the encoder is told of.

    Attributes:
        cache: Keys and values of past frames.
        frames: uint8 [B, H, W, 3], the frames last shown.
        action: int64 [B] on the CPU, the actions that led to them.
        trail: int64 [B], all that led to the last committed ones; see :mod:`worldsim.model.trail`.
        context: [B, L, D], the encoder's tokens of the last committed frames.
        view: [B, L, V] of the same frames.
        scene: [B, H / 2, W / 2, C], what the decoder needs of the two.
    """

    scene: Tensor

    def __init__(self, model: WorldModel, batch: int, context_level: int) -> None:
        c, weight = model.config, next(model.parameters())
        device = weight.device
        self._model, self.batch = model, batch
        self.cache = make_cache(model, batch)
        self.frames = torch.zeros(batch, c.height, c.width, 3, dtype=torch.uint8, device=device)
        self.action = torch.zeros(batch, dtype=torch.int64)
        self.trail = torch.full((batch,), model.no_action, device=device)
        self.context = torch.zeros(batch, c.tokens, c.dim, dtype=weight.dtype, device=device)
        self.view = torch.zeros(batch, c.tokens, c.view_dim, dtype=weight.dtype, device=device)
        self._level = torch.full((batch,), context_level, device=device)

    def begin(self, rows: list[int], starts: Sequence[Start]) -> None:
        """Start rows over, each from a start of its own; :attr:`scene` is that of all rows afterwards."""
        for length in sorted({len(one.frames) for one in starts}):  # those of equal length are primed together
            at = [k for k, one in enumerate(starts) if len(one.frames) == length]
            self._prime([rows[k] for k in at], [starts[k] for k in at])
        self.scene = self._model.scene(self.context, self.view)

    def keep(self, encode: Part, *, by_row: bool) -> None:
        """Remember :attr:`frames` and :attr:`action`.

        Args:
            encode: See :class:`~worldsim.engine.parts.EncodePart`.
            by_row: See :meth:`Cache.bias`.
        """
        cache, bias = self.cache, self.cache.bias(by_row=by_row)
        self.trail = after(self.trail, self.action.to(self.frames.device), self._model.config)
        self.context, self.view, self.scene, key, value = encode(
            self.frames, self.view, self.trail, self._level, cache.keys, cache.values, bias
        )
        cache.write(key, value)

    def held(self, rows: list[int]) -> dict[str, Tensor | NDArray[np.int64]]:
        """All of it, of some rows: arrays of :class:`~worldsim.engine.state.SessionState` by name."""
        return {
            "keys": self.cache.keys[:, rows].transpose(0, 1),
            "values": self.cache.values[:, rows].transpose(0, 1),
            "written": self.cache.written[rows],
            "context": self.context[rows],
            "view": self.view[rows],
            "frames": self.frames[rows],
            "actions": self.action[rows],
            "trail": self.trail[rows],
        }

    def restore(self, rows: list[int], held: dict[str, Tensor]) -> None:
        """Put back what :meth:`held` gave, as tensors on the CPU."""
        keys, values = (held[name].transpose(0, 1) for name in ("keys", "values"))
        self.cache.restore(rows, keys, values, held["written"].numpy())
        self.context[rows] = held["context"].to(self.context.device)
        self.view[rows] = held["view"].to(self.view.device)
        self.frames[rows] = held["frames"].to(self.frames.device)
        self.action[rows] = held["actions"]
        self.trail[rows] = held["trail"].to(self.trail.device)
        self.scene = self._model.scene(self.context, self.view)

    def _prime(self, rows: list[int], starts: list[Start]) -> None:
        """Start ``rows`` from starts of one length."""
        whole = rows == list(range(self.batch))
        cache = self.cache if whole else self.cache.like(len(rows))
        cache.reset()
        frames = torch.from_numpy(np.stack([start.frames for start in starts]))  # [n, N, H, W, 3]
        actions = torch.from_numpy(np.stack([start.actions for start in starts]))  # [n, N-1]
        device, dtype = self.context.device, self.context.dtype
        patches = self._model.see(frames.to(device), dtype)
        trails = self._model.previous_actions(actions.to(device))
        context, view = prime(self._model, cache, patches, trails, self._level[: len(rows)])
        if not whole:
            self.cache.adopt(rows, cache)
        self.context[rows], self.view[rows], self.trail[rows] = context, view, trails[:, -1]
        self.frames[rows] = frames[:, -1].to(device)
