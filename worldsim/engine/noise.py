"""Every row's own random numbers, apart from PyTorch's global generator."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import Tensor


class RowNoise:
    """One generator and one slice of a preallocated noise buffer for each row.

    Noise is drawn on the CPU whatever the device, so that a seed means the same numbers everywhere.

    Args:
        shape: Shape of a row's noise.
        seeds: One for each row, 0 to 2^64 - 1.
    """

    def __init__(self, shape: Sequence[int], seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._buffer = torch.zeros(len(seeds), *shape)
        self._rows = list(self._buffer.unbind())

    @property
    def buffer(self) -> Tensor:
        """What the last draw wrote, float32 [B, *shape]."""
        return self._buffer

    def __getitem__(self, row: int) -> torch.Generator:
        """The generator of a row."""
        return self._generators[row]

    def replace(self, rows: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        """Draw ``rows`` from other generators from now on."""
        for row, generator in zip(rows, generators, strict=True):
            self._generators[row] = generator

    def draw(self, idle: Container[int] = ()) -> Tensor:
        """Fresh standard-normal noise, float32 [B, *shape]; valid until the next draw. Rows in ``idle`` draw none."""
        for number, (generator, row) in enumerate(zip(self._generators, self._rows, strict=True)):
            if number not in idle:
                row.normal_(generator=generator)
        return self._buffer

    def states(self, rows: Sequence[int]) -> Tensor:
        """States of the generators of ``rows``, uint8 [n, G]."""
        return torch.stack([self._generators[row].get_state() for row in rows])

    def set_states(self, rows: Sequence[int], states: Tensor) -> None:
        """Continue ``rows`` from :meth:`states`."""
        for row, state in zip(rows, states, strict=True):
            # A copy: PyTorch reads from the start of a view's storage and crashes on the second row.
            self._generators[row].set_state(state.clone())
