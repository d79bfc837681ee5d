"""Data parallel training under ``torchrun``: who am I, and the mean of everybody's gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from worldsim.errors import RunError


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process saves, prints and draws."""
        return self.rank == 0

    def places(self, batch: int) -> range:
        """This rank's slice of a global batch.

        Raises:
            RunError: the batch does not divide among the ranks.
        """
        if batch % self.count:
            raise RunError(f"a batch of {batch} does not divide among {self.count} processes: choose a multiple")
        share = batch // self.count
        return range(self.rank * share, (self.rank + 1) * share)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks."""
        if self.count == 1:
            return
        present = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in present])
        distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(present, flat.split([tensor.numel() for tensor in present]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def any(self, *said: bool) -> tuple[bool, ...]:
        """Of each thing, whether some rank says it: what all of them are to do together."""
        if self.count == 1:
            return said
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        flags = torch.tensor(said, dtype=torch.int32, device=device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return tuple(map(bool, flags.tolist()))

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """The process group that ``torchrun`` describes, or a single rank without it."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # who leaves while another still works may abort, or make that one abort
    finally:
        distributed.destroy_process_group()
