"""The KV cache: a preallocated ring of the last W-1 frames, whose rows start over one by one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.model.dit import DiT
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


class RingCache:
    """Keys and values of the last W-1 frames of every row, and the bias that tells the encoder how old each
    slot is.

    The buffers are allocated once. Each row counts its own frames, so rows can be reset, adopted and restored
    while the others go on. A row's biases repeat: it passes W-1 filling states once, then the W-1 rotations
    of a full ring for ever. All of them are computed when the cache is made.

    Args:
        model: Gives sizes, the age bias and the device; its weights must not change afterwards.
        batch: Rows.

    Attributes:
        keys, values: [layers, B, h, L, W-1, hd].
        written: int64 [B], frames seen by each row.
    """

    def __init__(self, model: WorldModel | DiT, batch: int) -> None:
        c = model.config
        weight = next(model.parameters())
        self.batch, self.slots = batch, c.window - 1
        shape = (model.memory_layers, batch, c.heads, c.tokens, self.slots, c.head_dim)
        # The products of temporal attention are too small for bfloat16 to pay on a CPU.
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        self.keys = torch.zeros(shape, dtype=dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.written = np.zeros(batch, np.int64)
        self._model = model
        self._together = True  # all rows have seen the same number of frames: one slot to write, one bias for all
        states = [slot_ages(n, self.slots) for n in range(2 * self.slots)]
        with torch.inference_mode():
            ages = torch.tensor(states, device=weight.device)
            self._biases = model.ring_bias(ages).to(dtype)  # [layers, 2(W-1), h, 1, W-1]; k in place of 1 for chunks
            # Each in one piece, as it is when rows differ: a compiled step may rely on how its arguments lie in memory.
            self._bias_of_state = [self._biases[:, n : n + 1].contiguous() for n in range(2 * self.slots)]

    def like(self, batch: int) -> RingCache:
        """An empty cache for the same model with another number of rows."""
        return RingCache(self._model, batch)

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

    def reset(self, rows: list[int] | None = None) -> None:
        """Empty some rows, or all."""
        chosen = slice(None) if rows is None else rows
        # Zeros, because an empty slot's weight of 0 does not silence an infinity left in it.
        self.keys[:, chosen] = 0
        self.values[:, chosen] = 0
        self.written[chosen] = 0
        self._notice()

    def adopt(self, rows: list[int], other: RingCache) -> None:
        """Copy all rows of ``other`` into ``rows``, in order."""
        self.restore(rows, other.keys, other.values, other.written)

    def restore(self, rows: list[int], keys: Tensor, values: Tensor, written: NDArray[np.int64]) -> None:
        """Set ``rows`` to keys and values [layers, n, h, L, W-1, hd] after ``written`` [n] frames."""
        self.keys[:, rows] = keys
        self.values[:, rows] = values
        self.written[rows] = written
        self._notice()

    def _state(self, written: int) -> int:
        """Which of the 2(W-1) bookkeeping states a row is in: filling, or a rotation of the full ring."""
        return written if written < self.slots else self.slots + written % self.slots

    def _notice(self) -> None:
        self._together = bool((self.written == self.written[0]).all())
