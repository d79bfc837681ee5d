"""Kept frames, step by step: clips arrive, their contexts are kept, frames of all of them are drawn."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.model.world_model import WorldModel
from worldsim.training.batches import make_batch, stratified, stream
from worldsim.training.crops import Crops
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.erasing import Eraser
from worldsim.training.kept import Frames, KeptConfig, Places
from worldsim.training.loss import Batch, LossConfig, noise_levels
from worldsim.training.objective import Objective, OwnPool
from worldsim.training.own import own_rows
from worldsim.training.parallel import Ranks
from worldsim.training.replay import Replay
from worldsim.training.turns import Turns


@dataclass(frozen=True)
class Drawn:
    """This process's frames of a step, with all of its random numbers.

    Attributes:
        at: Where they are kept, -1 for those that are not, which were drawn from all recorded turns.
        frames: N of them.
        worth: float32 [N], 1 in the mean: what makes up for how often each is drawn.
        least: float32 [N], what each pixel weighs at least: in a frame in which something may come (see
            :mod:`~worldsim.training.turns` and :mod:`~worldsim.training.erasing`) as much as one that moves.
        levels: As many draws of noise levels as were asked for, float32 [draws, N].
        noise: And of standard normal noise, float32 [draws, N, L, P], or [draws, N, K, P] of squares.
        others: With ``loss.choices``, of each draw as much more noise to choose from, [draws, choices - 1, N, L, P].
        lots: Uniform numbers that choose, float32 [draws, N].
        squares: Patches that are learned from, int64 [N, K]; None: all.
    """

    at: Places
    frames: Frames
    worth: Tensor
    least: Tensor
    levels: NDArray[np.float32]
    noise: Tensor
    others: Tensor
    lots: Tensor
    squares: Tensor | None


def arrivals(step: int, how: KeptConfig, batch: int) -> int:
    """Batches of ``batch`` clips that have arrived before a step."""
    return max(1, how.first // batch) + step // how.every


class Rehearsal:
    """A :class:`~worldsim.training.replay.Replay` that clips go on arriving in. The same seed draws the same.

    Args:
        model: For its patches and its shape.
        objective: Encodes what arrives and tells how well it is foretold.
        shows: Makes the model's own frames.
        pool: Keeps them between turns, and has been told from which batch on there are any.
        store: What clips come from.
        loss: Says how many clips show own frames, and how noise levels are spread.
        how: What is kept and drawn.
        batch: Clips that arrive together, over all processes.
        seed: Of everything.
        place: This process.
        turns: Moments that are drawn from beside what is kept, and their share of a step's squares; None: none.
        eraser: Takes things out of the past of ``how.erased_share`` of whole frames; None: of none.
    """

    def __init__(
        self,
        model: WorldModel,
        objective: DecoderObjective,
        shows: Objective,
        pool: OwnPool,
        store: ClipStore,
        loss: LossConfig,
        how: KeptConfig,
        *,
        batch: int,
        seed: int,
        place: Ranks,
        device: torch.device,
        turns: tuple[Turns, float] | None = None,
        eraser: Eraser | None = None,
    ) -> None:
        self._turns = turns[0] if turns else None
        self._turned_share = turns[1] if turns else 0.0
        self._eraser = eraser
        self._arrival = objective.arrival
        self._shows, self._pool, self._how, self._seed, self._device = shows, pool, how, seed, device
        self._loss = loss
        self._places, self._place = place.places(batch), place
        self._own = own_rows(self._places, loss.own_share)
        self._batch_size = batch
        told = replace(loss, draws=0, context_noise_share=0.0, crop=None, rewarded=0.0)
        here, begun = self._places, pool.begun
        self._batch = partial(make_batch, store, model.config, told, seed, places=here, device=device, begun=begun)
        self._stream = partial(stream, store, model.config, told, seed, places=here, device=device, begun=begun)
        self._crops = Crops(model.config, how.crop) if how.crop else None
        self._batches: Generator[tuple[int, Batch], None, None] | None = None
        self._done = 0  # batches that have arrived
        self._rounds = max(1, how.clips // batch)
        self.replay = Replay(
            objective, model, self._rounds, seed, patches=bool(how.crop), turns=how.turns, about=bool(how.about)
        )

    def begin(self, step: int, last: int, kept: dict[str, Tensor]) -> None:
        """Make ready for steps ``step`` to ``last``; ``kept`` is :meth:`state` after the step before.

        Raises:
            RunError: that is of another recording, or see :meth:`Replay.restore`.
        """
        if kept:
            self._done = self._arrived(step - 1)
            self.replay.restore(kept, lambda number: self._batch(step=number))
        if self._turns and "turns" in kept:
            self._turns.restore(kept["turns"])
        elif self._turns:
            self._turns.judge(self._arrival, self._seed, quiet=not self._place.leads)
        self._batches = self._stream(steps=range(self._done, self._arrived(last)))

    def state(self) -> dict[str, Tensor]:
        """All that is needed to draw the same again."""
        return self.replay.state() | ({"turns": torch.from_numpy(self._turns.errors)} if self._turns else {})

    def draw(self, step: int, draws: int) -> Drawn:
        """What a step learns from, after what arrives before it."""
        assert self._batches is not None
        while self._done < self._arrived(step):
            number, batch = next(self._batches)
            own = self._own if number >= self._pool.begun else ()
            last = self._arrives(number + self._rounds) - 1  # step before another takes its place
            judge = self._how.at(last).emphasis != 0
            self.replay.add(number, batch, self._pool.show(self._shows, batch, own, number), own, judge=judge)
            self._done = number + 1
        how, share = self._how.at(step), self._place.places(self._how.drawn(step))
        rng = np.random.default_rng((self._seed, step, share.start))
        crops = None if how.is_whole(step) else self._crops
        if self._crops and not crops:
            how = replace(how, emphasis=0.0, correction=0.0)
        at, frames, worth, coming = self._drawn(rng, len(share), how)
        if self._eraser and not crops:
            frames, erased = self._eraser.erase(rng, frames, how.erased_share)
            coming |= erased
        least = torch.where(torch.from_numpy(coming), self._loss.moved_weight, 1.0)
        levels = noise_levels(stratified(rng, draws, len(share)), self._loss)
        chance = torch.Generator().manual_seed(int(rng.integers(2**62)))
        squares = None
        if crops:
            squares = torch.from_numpy(crops.around(rng, at.patches)).to(self._device)
        count, patches, values = frames.following.shape
        noise = torch.randn(draws, count, patches if squares is None else squares.shape[1], values, generator=chance)
        choices = self._loss.choices or 1
        others = torch.randn(draws, choices - 1, *noise.shape[1:], generator=chance)
        lots = torch.rand(draws, count, generator=chance)
        told = worth, least, noise, others, lots
        worth, least, noise, others, lots = (one.to(self._device) for one in told)
        return Drawn(at, frames, worth, least, levels, noise, others, lots, squares)

    def _drawn(
        self, rng: np.random.Generator, count: int, how: KeptConfig
    ) -> tuple[Places, Frames, Tensor, NDArray[np.bool_]]:
        """Frames in no order, where they are kept, what they weigh, and whether something may come in them."""
        turned = round(self._turned_share * count) if how.emphasis else 0
        at, frames, worth = self.replay.draw(rng, count - turned, how)
        if not (self._turns and turned):
            return at, frames, worth, np.zeros(count, bool)
        patches, more, comes = self._turns.draw(rng, turned)
        order = rng.permutation(count)
        coming = np.concatenate((np.zeros(count - turned, bool), comes))
        places = np.concatenate((at.frames, np.full(turned, -1))), np.concatenate((at.patches, patches))
        both = [torch.cat((getattr(frames, of.name), getattr(more, of.name)))[order] for of in fields(Frames)]
        return (
            Places(*(of[order] for of in places)),
            Frames(*both),
            torch.cat((worth, torch.ones(turned)))[order],
            coming[order],
        )

    def close(self) -> None:
        """No more clips."""
        if self._batches is not None:
            self._batches.close()

    def _arrives(self, number: int) -> int:
        """The first step before which a batch has arrived."""
        return max(0, number + 1 - arrivals(0, self._how, self._batch_size)) * self._how.every

    def _arrived(self, step: int) -> int:
        return arrivals(step, self._how, self._batch_size)
