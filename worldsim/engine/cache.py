"""The KV cache: preallocated rings of the last frames, whose rows start over one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.model.dit import DiT
from worldsim.model.multiscale import multi_scale
from worldsim.model.world_model import WorldModel


def slot_ages(written: int, slots: int) -> list[int]:
    """Age of every slot after ``written`` frames: 1 is the newest, ``slots`` the oldest, 0 an empty slot.

    Frame j lies in slot ``j % slots``, so the count of frames written is all a ring's bookkeeping.
    """
    newest = range(max(0, written - slots), written)
    ages = [0] * slots
    for frame in newest:
        ages[frame % slots] = written - frame
    return ages


class Cache(ABC):
    """What the encoder remembers of every row, in buffers that are allocated once.

    Each row counts its own frames, so rows can be reset, adopted and restored while the others go on.

    Args:
        model: Gives sizes and the device; its weights must not change afterwards.
        batch: Rows.
        shape: Of a row's keys in one layer.

    Attributes:
        keys, values: [layers, B, *shape].
        written: int64 [B], frames seen by each row.
    """

    def __init__(self, model: WorldModel | DiT, batch: int, shape: tuple[int, ...]) -> None:
        weight = next(model.parameters())
        # The products of temporal attention are too small for bfloat16 to pay on a CPU.
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        self.batch = batch
        self.keys = torch.zeros(model.memory_layers, batch, *shape, dtype=dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.written = np.zeros(batch, np.int64)
        self._model = model
        self._together = True  # all rows have seen the same number of frames: one slot to write, one bias for all

    def like(self, batch: int) -> Cache:
        """An empty cache for the same model with another number of rows."""
        return make_cache(self._model, batch)

    @abstractmethod
    def bias(self, *, by_row: bool = False) -> Tensor:
        """What tells :meth:`WorldModel.encode_step` how old the slots are; for all rows at once where they agree.

        Args:
            by_row: Always give every row its own, for a backend with fixed shapes.
        """

    @abstractmethod
    def write(self, key: Tensor, value: Tensor) -> None:
        """Put one new frame of every row, as :meth:`WorldModel.encode_step` gave it, in place of its oldest."""

    def reset(self, rows: list[int] | None = None) -> None:
        """Empty some rows, or all."""
        chosen = slice(None) if rows is None else rows
        # Zeros, because an empty slot's weight of 0 does not silence an infinity left in it.
        self.keys[:, chosen] = 0
        self.values[:, chosen] = 0
        self.written[chosen] = 0
        self._notice()

    def adopt(self, rows: list[int], other: Cache) -> None:
        """Copy all rows of ``other`` into ``rows``, in order."""
        self.restore(rows, other.keys, other.values, other.written)

    def restore(self, rows: list[int], keys: Tensor, values: Tensor, written: NDArray[np.int64]) -> None:
        """Set ``rows`` to keys and values [layers, n, *shape] after ``written`` [n] frames."""
        self.keys[:, rows] = keys
        self.values[:, rows] = values
        self.written[rows] = written
        self._notice()

    def _notice(self) -> None:
        self._together = bool((self.written == self.written[0]).all())


class RingCache(Cache):
    """Keys and values of the last W-1 frames of every row, and the bias that tells the encoder how old each
    slot is.

    A row's biases repeat: it passes W-1 filling states once, then the W-1 rotations of a full ring for ever. All of
    them are computed when the cache is made.

    Args:
        model: Gives sizes, the age bias and the device; its weights must not change afterwards.
        batch: Rows.

    Attributes:
        keys, values: [layers, B, h, L, W-1, hd].
        written: int64 [B], frames seen by each row.
    """

    def __init__(self, model: WorldModel | DiT, batch: int) -> None:
        c = model.config
        self.slots = c.window - 1
        super().__init__(model, batch, (c.heads, c.tokens, self.slots, c.head_dim))
        states = [slot_ages(n, self.slots) for n in range(2 * self.slots)]
        with torch.inference_mode():
            ages = torch.tensor(states, device=self.keys.device)
            # [layers, 2(W-1), h, 1, W-1]; k in place of 1 for chunks
            self._biases = model.ring_bias(ages).to(self.keys.dtype)
            # Each in one piece, as it is when rows differ: a compiled step may rely on how its arguments lie in memory.
            self._bias_of_state = [self._biases[:, n : n + 1].contiguous() for n in range(2 * self.slots)]

    def ages(self) -> NDArray[np.int64]:
        """Ages of the slots [B, W-1]; see :func:`slot_ages`."""
        return np.array([slot_ages(int(n), self.slots) for n in self.written], np.int64)

    def bias(self, *, by_row: bool = False) -> Tensor:
        """Bias for :meth:`WorldModel.encode_step`: [layers, B, h, 1, W-1]; B is 1 while it is one for all.

        Args:
            by_row: Always give every row its own, for a backend with fixed shapes.
        """
        if self._together and (self.batch == 1 or not by_row):
            return self._bias_of_state[self._state(int(self.written[0]))]
        states = torch.tensor([self._state(int(n)) for n in self.written], device=self._biases.device)
        return self._biases.index_select(1, states)

    def write(self, key: Tensor, value: Tensor) -> None:
        """Put one new frame of every row [layers, B, h, L, hd] in place of its oldest."""
        if self._together:
            slot = int(self.written[0]) % self.slots
            self.keys[..., slot, :] = key
            self.values[..., slot, :] = value
        else:
            for row, slot in enumerate((self.written % self.slots).tolist()):
                self.keys[:, row, :, :, slot] = key[:, row]
                self.values[:, row, :, :, slot] = value[:, row]
        self.written += 1

    def write_chunk(self, keys: Tensor, values: Tensor) -> None:
        """Put the frames of a chunk [layers, B, h, L, k, hd] in place of the oldest, in order."""
        for key, value in zip(keys.unbind(-2), values.unbind(-2), strict=True):
            self.write(key, value)

    def _state(self, written: int) -> int:
        """Which of the 2(W-1) bookkeeping states a row is in: filling, or a rotation of the full ring."""
        return written if written < self.slots else self.slots + written % self.slots


class MultiScaleCache(Cache):
    """Two rings in one piece, see :class:`~worldsim.model.multiscale.MultiScaleAttention`.

    Of each row [entries, hd]: keys of the near heads at every token of the last ``near - 1`` frames, then those of the
    far heads at every pooled token of every ``stride``-th frame, counted from a row's first, as far back as the window
    goes. With the window this grows by a ``1 / (2 stride pool^2)`` of what a ring of all heads and tokens does.

    Args:
        model: Gives sizes and the device.
        batch: Rows.
    """

    def __init__(self, model: WorldModel, batch: int) -> None:
        c, self._how = model.config, multi_scale(model.config)
        self._heads, self._tokens, self._places = c.heads // 2, c.tokens, []
        self.near_slots, self.far_slots = self._how.near - 1, self._how.slots(c.window)
        for layer in range(c.encoder_layers):
            self._places.append(c.tokens // self._how.pooled(layer, c.encoder_layers) ** 2)
        self._near = self._heads * self.near_slots * c.tokens
        entries = self._near + self._heads * self.far_slots * max(self._places)
        super().__init__(model, batch, (entries, c.head_dim))
        self._left = self._heads * c.tokens  # near keys of a new frame

    def ages(self) -> NDArray[np.int64]:
        """Ages of near and far slots [B, near - 1 + far], in frames: 1 is the newest, 0 an empty slot."""
        return np.array([self._ages(int(n)) for n in self.written], np.int64)

    def bias(self, *, by_row: bool = False) -> Tensor:
        """The slots' ages int64 [B, slots]; B is 1 while they are one for all."""
        rows = self.written[:1] if self._together and (self.batch == 1 or not by_row) else self.written
        return torch.tensor([self._ages(int(n)) for n in rows], device=self.keys.device)

    def write(self, key: Tensor, value: Tensor) -> None:
        """Put one new frame of every row [layers, B, entries of a frame, hd] in place of its oldest."""
        if self._together:
            self._put(slice(None), int(self.written[0]), key, value)
        else:
            for row, written in enumerate(self.written.tolist()):
                self._put(slice(row, row + 1), written, key[:, row : row + 1], value[:, row : row + 1])
        self.written += 1

    def _put(self, rows: slice, written: int, key: Tensor, value: Tensor) -> None:
        for held, new in ((self.keys[:, rows], key), (self.values[:, rows], value)):
            near = held[:, :, : self._near].unflatten(2, (self._heads, self.near_slots, self._tokens))
            near[:, :, :, written % self.near_slots] = new[:, :, : self._left].unflatten(2, (self._heads, -1))
            if written % self._how.stride:
                continue
            slot = written // self._how.stride % self.far_slots
            for layer, places in enumerate(self._places):
                end, size = self._near + self._heads * self.far_slots * places, self._heads * places
                far = held[layer, :, self._near : end].unflatten(1, (self._heads, self.far_slots, places))
                far[:, :, slot] = new[layer, :, self._left : self._left + size].unflatten(1, (self._heads, -1))

    def _ages(self, written: int) -> list[int]:
        kept = -(-written // self._how.stride)
        far = [written - (kept - age) * self._how.stride if age else 0 for age in slot_ages(kept, self.far_slots)]
        return slot_ages(written, self.near_slots) + far


def make_cache(model: WorldModel | DiT, batch: int) -> Cache:
    """The cache that a model's memory needs."""
    if isinstance(model, WorldModel) and model.config.multiscale:
        return MultiScaleCache(model, batch)
    return RingCache(model, batch)
