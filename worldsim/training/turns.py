"""Every moment of recorded play at which a thing turns or comes, to learn from beside what clips bring along.

A ball meets a paddle in one tick of a hundred, and clips bring a run a few thousand of those that were recorded. A
small network that is told all of a game's state needs a hundred thousand looks at hits to know them
(docs/experiments/2026-11-28-twenty-fifth-pong.md). Where things turn is told by their motion alone, so all of these
moments are found once, and kept.

A served ball comes in one tick of a thousand, and where it comes is not told by what was. After 24 000 steps of which
every fiftieth square was of a serve, a Breakout served none: the frame before shows nothing that moves, so that its
pixels weigh a sixteenth of a hit's, and a decoder that draws no ball does not look for one in the noisy frame either.
So some of the draws are of what comes, and everything in such a frame weighs what moves weighs
(docs/experiments/2026-11-29-thirty-second-breakout.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.clips import ClipStore, PackedEpisode
from worldsim.data.packed import PackedFrames
from worldsim.errors import RunError
from worldsim.model.cue import cues
from worldsim.model.trail import trails
from worldsim.model.world_model import WorldModel
from worldsim.training.kept import Frames
from worldsim.vision.colours import ColourReader

LEAST = 0.75  # pixels by which a thing is elsewhere than its motion would have taken it
# Ticks of which one is learned from: what is learned at a hit is not to spread to its neighbours.
AROUND = -1, 0, 0, 1
EVENLY = 0.5  # of the draws; the others go by errors
COMING = 0.25  # of the draws, which are of what comes, where anything does
_READ = 2048  # frames at once
_JUDGED = 128


class Turns:
    """Moments at which things turn, or come, each with its neighbours in time.

    Args:
        store: Recorded play; all of its episodes, not only clips.
        model: For its patches.
        reader: Sees the things.
        names: Which of them.
        untold: Share of the moments of which the decoder is not told the last reward.
        device: Of what is drawn.

    Attributes:
        errors: By which half of the draws of what turns go, float32 [turns].

    Raises:
        RunError: nothing ever turns or comes.
        SourceError: no such thing is told by its colour.
    """

    def __init__(
        self,
        store: ClipStore,
        model: WorldModel,
        reader: ColourReader,
        names: Sequence[str],
        *,
        untold: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._model, self._untold, self._device = model, untold, torch.device(device)
        c = model.config
        self._before = max(c.history + 1, c.past_actions + 2)  # frames before a turn that it and its neighbours need
        with ThreadPoolExecutor(2) as readers:
            found = list(readers.map(partial(_found, reader=reader, names=names, before=self._before), store.episodes))
        turns = [turn for episode in found for turn in episode]
        if not turns:
            raise RunError(f"{' and '.join(names)} never turn in what was recorded: give moments.turned_share=0")
        self._pieces = [turn.frames for turn in turns]
        self._actions, self._since = (np.stack(of) for of in zip(*((t.actions, t.since) for t in turns), strict=True))
        self._coming = np.array([turn.comes for turn in turns])
        self._arrivals = np.flatnonzero(self._coming)
        columns, rows = (np.array([turn.middle for turn in turns]).T + 0.5).astype(np.intp) // c.patch
        self._patches = rows.clip(0, c.rows - 1) * c.columns + columns.clip(0, c.columns - 1)
        self.errors = np.ones(len(self._pieces), np.float32)

    def __len__(self) -> int:
        """How many turns there are."""
        return len(self._pieces)

    def judge(self, arrival: Callable[[Frames, Tensor], Tensor], seed: int, *, quiet: bool = True) -> None:
        """Find how badly each is foretold: half of the draws go by it, for good.

        Args:
            arrival: See :meth:`~worldsim.training.decoder_objective.DecoderObjective.arrival`.
            seed: Of the noise that frames are made from.
            quiet: Without a progress bar.
        """
        from tqdm import tqdm

        c, found = self._model.config, []
        noise = torch.Generator().manual_seed(seed)
        firsts = range(0, len(self), _JUDGED)
        for first in tqdm(firsts, desc="turns", unit="batch", disable=quiet, mininterval=5):
            # As many each time, so that a compiled function is compiled once.
            which = np.arange(first, first + _JUDGED).clip(max=len(self) - 1)
            pure = torch.randn(_JUDGED, c.tokens, c.patch_dim, generator=noise).to(self._device)
            errors = arrival(self._frames(which, np.zeros(_JUDGED, np.intp), np.ones(_JUDGED, bool)), pure)
            found.append(errors[-1].amax(1).float().cpu().numpy())
        self.errors = np.concatenate(found)[: len(self)]

    def restore(self, errors: Tensor) -> None:
        """Put back what :meth:`judge` found.

        Raises:
            RunError: there were more turns then, or fewer.
        """
        if len(errors) != len(self):
            raise RunError(f"this run began with {len(errors)} turns, and {len(self)} are recorded now: begin another")
        self.errors = errors.numpy().copy()

    def draw(self, rng: np.random.Generator, count: int) -> tuple[NDArray[np.intp], Frames, NDArray[np.bool_]]:
        """Some turns and arrivals, or a tick next to one.

        Returns:
            The patches [count] in which things were before they turned, or came; the frames; and whether something
            came, bool [count].
        """
        total = self.errors.cumsum(dtype=np.float64)
        by_error = total.searchsorted(rng.random(count) * total[-1], side="right").clip(max=len(self) - 1)
        which = np.where(rng.random(count) < EVENLY, rng.integers(len(self), size=count), by_error)
        if len(self._arrivals):
            arrivals = self._arrivals[rng.integers(len(self._arrivals), size=count)]
            which = np.where(rng.random(count) < COMING, arrivals, which)
        away = np.array(AROUND)[rng.integers(len(AROUND), size=count)]
        frames = self._frames(which, away, rng.random(count) >= self._untold)
        return self._patches[which], frames, self._coming[which]

    def _frames(self, which: NDArray[np.intp], away: NDArray[np.intp], told: NDArray[np.bool_]) -> Frames:
        """Frames so many ticks away from turns [N], and whether the decoder is told of the last reward before each."""
        frames = np.stack([self._pieces[piece].unpack(0, self._before + 2) for piece in which.tolist()])
        rows, history, at = np.arange(len(which)), self._model.config.history, self._before + away
        past = frames[rows[:, None], at[:, None] + np.arange(-history, 0)]
        actions = torch.from_numpy(self._actions[which, at - 1])
        led = self._actions[which[:, None], at[:, None] + np.arange(-1 - self._model.config.past_actions, -1)]
        since = np.where(told, self._since[which, at - 1], 0)
        made = Frames(
            context=torch.empty(len(which), 0),
            past=self._model.patchify(torch.from_numpy(past)),
            previous=trails(torch.from_numpy(led), self._model.config)[:, -1],
            following=self._model.patchify(torch.from_numpy(frames[rows, at])),
            cue=cues(actions, torch.from_numpy(since), self._model.config),
        )
        return Frames(**{field.name: getattr(made, field.name).to(self._device) for field in fields(Frames)})


def turning(middles: NDArray[np.float32]) -> NDArray[np.intp]:
    """When a thing turns.

    Args:
        middles: Where it is in frames one after the other [T, 2], in pixels; NaN where it is not.

    Returns:
        Numbers of the frames in which it is elsewhere than it would be if its motion had gone on; the first of several
        in a row. Of a thing that comes or goes nothing is told.
    """
    due = 2 * middles[1:-1] - middles[:-2]
    off: NDArray[np.bool_] = np.abs(middles[2:] - due).max(1) > LEAST
    return 2 + np.flatnonzero(off & ~np.concatenate((np.zeros(1, bool), off[:-1])))


def coming(middles: NDArray[np.float32], gone: int) -> NDArray[np.intp]:
    """When a thing comes.

    Args:
        middles: As of :func:`turning`.
        gone: Frames before, in none of which it is.

    Returns:
        Numbers of the frames in which it is again, or for the first time.
    """
    there = np.isfinite(middles[:, 0])
    if len(there) <= gone:
        return np.zeros(0, np.intp)
    before = np.concatenate(([0], there.cumsum()))  # in how many of the frames before each it is
    return gone + np.flatnonzero(there[gone:] & (before[gone:-1] == before[: -1 - gone]))


def going(middles: NDArray[np.float32], gone: int) -> NDArray[np.intp]:
    """When a thing goes: numbers of the frames in which it is no more, nor in the next ``gone``; see :func:`coming`."""
    return len(middles) - coming(middles[::-1], gone)


@dataclass(frozen=True, eq=False)
class _Turn:
    """One of them.

    Attributes:
        frames: Those before it, itself and the next.
        actions, since: Of all of these but the last, int64; see :class:`~worldsim.data.clips.Clip`.
        middle: Where the thing was a tick before, or comes, float32 [2].
        comes: Whether it comes.
    """

    frames: PackedFrames
    actions: NDArray[np.int64]
    since: NDArray[np.int64]
    middle: NDArray[np.float32]
    comes: bool


def _found(episode: PackedEpisode, reader: ColourReader, names: Sequence[str], before: int) -> list[_Turn]:
    """The turns and arrivals of an episode that have so many frames before them, and one after."""
    turns, count = [], episode.frames.count
    for first in range(before, count - 1, _READ):
        begin, last = first - before, min(first + _READ, count - 1)
        frames = episode.frames.unpack(begin, last + 1)
        for middles in reader.middles(frames, names):
            ticks = [(tick, False) for tick in turning(middles)] + [(tick, True) for tick in coming(middles, before)]
            for tick, comes in ticks:
                if not first <= begin + tick < last:
                    continue
                acts = slice(begin + tick - before, begin + tick + 1)
                piece = PackedFrames.pack(frames[tick - before : tick + 2])
                middle = middles[tick if comes else tick - 1]
                turns.append(_Turn(piece, episode.actions[acts], episode.since[acts], middle, comes))
    return turns
