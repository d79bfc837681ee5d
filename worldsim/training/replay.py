"""The decoder alone, on contexts that a resting encoder left behind.

What moves by a rule of its own (a ball that meets a paddle) does so in one frame of a hundred, and clips bring all the
other frames along, whose encoder pass costs more than the decoder's. Once the encoder rests, its contexts can be kept:
the decoder then learns from frames of many games at once, most often from those that it still gets wrong (prioritised
experience replay, arXiv 1511.05952).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.errors import RunError
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel
from worldsim.training.crops import ANYWHERE, changed
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import Frames, KeptConfig, Places
from worldsim.training.loss import Batch

NEAR = 2  # ticks around a frame whose errors count as its own when it arrives: what is hard comes with its neighbours
_CEILING, _FLOOR = 30.0, 0.1  # of errors, in means
_CEILING_OF_PATCHES = 100.0  # a ball is a larger part of a patch than of a frame
_OF_SOME = 50.0  # what an error of some things alone counts at most, in what is usual
_KINDS = "", ".about"  # of errors: all, and those of some things alone
_MOVED = 2e-3  # mean square of how much of its pixels a patch of 10x10 gained or lost of a thing: half a pixel
_NEVER = -1e9  # in place of the error of what is never drawn
_BESIDE = 3.0  # pixels' worth of squared error in a patch: a ball of two pixels is drawn three quarters of one beside
_FORGETS = 0.05  # of what is usual, with each batch of clips

_Chances = tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float32]]


class Replay:
    """Kept batches of clips, the newest in place of the oldest.

    Args:
        objective: Encodes what arrives and tells how well it is foretold.
        model: For its patches.
        rounds: Batches that are kept.
        seed: Of the noise that arriving frames are judged with.
        patches: Whether each patch has an error of its own; else the frame has one.
        turns: Whether errors count where motion does not go on, see :class:`~worldsim.training.kept.KeptConfig`.
        about: Whether the objective tells the errors of some things alone, too.
    """

    def __init__(
        self,
        objective: DecoderObjective,
        model: WorldModel,
        rounds: int,
        seed: int,
        *,
        patches: bool = False,
        turns: bool = False,
        about: bool = False,
    ) -> None:
        self._objective, self._model, self._rounds, self._seed = objective, model, rounds, seed
        self._parts = model.config.tokens if patches else 1
        self._held: dict[str, Tensor] = {}
        self._numbers = np.full(rounds, -1)
        self._own: dict[int, tuple[tuple[int, ...], bytes]] = {}
        self._errors: NDArray[np.float32] = np.zeros(0, np.float32)
        self._turns, self._about = turns, about
        self._usual: dict[str, NDArray[np.float64]] = {}  # of patches: their errors, and what motion leaves of them
        # By emphasis, share of what is drawn anywhere and kind of error, until another batch is kept.
        self._told: dict[tuple[float, float, int], _Chances] = {}

    def __len__(self) -> int:
        """Batches so far."""
        return int((self._numbers >= 0).sum())

    def add(self, number: int, batch: Batch, seen: Tensor, own: Sequence[int], *, judge: bool = True) -> None:
        """Keep a batch.

        Args:
            number: Of the batch, one more than the last one's.
            batch: Real clips.
            seen: Patches [B, T, L, P] of what the encoder is shown of them.
            own: The rows that show the model's own frames. Together they are drawn as often as they are kept, and
                their patches by whether they have just changed: their errors may be those of a history that has lost
                the ball. Those whose past is no longer that of the recording are never drawn: what was recorded next
                does not follow from it, and of a ball that is elsewhere a decoder learned to draw none.
            judge: Whether its errors will be asked for. They are not where frames are drawn evenly for as long as it is
                kept, and finding them took a tenth of the time.
        """
        place, self._told = self._put(number, batch, seen, own), {}
        rows = list(own)
        lost = self._lost(place, rows)[..., None]
        if not judge:
            self._errors[:, place] = 1.0
            self._errors[:, place, rows] = np.where(lost, _NEVER, 1.0)
            return
        moments = batch.actions.numel()
        frames = self._found(torch.arange(place * moments, (place + 1) * moments))
        shape = frames.following.shape
        chance = int(np.random.default_rng((self._seed, number)).integers(2**62))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(chance))
        errors = self._objective.arrival(frames, noise.to(seen.device)).cpu().numpy()
        told = {"usual": errors}
        if self._turns:
            told["left"] = self._objective.turned(frames).cpu().numpy()
        for kind in range(len(self._errors)):
            known = [self._surprise(name + _KINDS[kind], of[kind]) for name, of in told.items()]
            surprise = np.minimum(known, _OF_SOME if kind else np.inf).prod(0) ** (1 / len(known))
            self._errors[kind, place] = self._drawn_for(surprise.reshape(len(seen), -1, surprise.shape[-1]), kind)
        if rows:
            for kind, means in enumerate(self._means(frames)):
                self._errors[kind, place, rows] = np.where(lost, _NEVER, -means.reshape(self._errors.shape[2:])[rows])

    def _drawn_for(self, surprise: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
        """By what frames are drawn [B, T, parts], of how badly each of their patches was foretold [B, T, L]."""
        if self._parts == 1:
            surprise = surprise.max(2, keepdims=True)
        # Before a clip's first frame everything stood still, as it never does in a roll-out: of a ball that stands
        # still nobody knows where it goes, and half of what was drawn for a ball's errors was that.
        surprise[:, : self._model.config.history - 1] = 0
        if kind:  # what comes before and after them is drawn for all errors
            return surprise
        padded = np.pad(surprise, ((0, 0), (NEAR, NEAR), (0, 0)), mode="edge")
        near: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEAR + 1, 1).max(-1)
        # Of squares a hit itself is to be drawn more often than what surrounds it.
        return near if self._parts == 1 else np.sqrt(near * surprise)

    def draw(self, rng: np.random.Generator, count: int, config: KeptConfig) -> tuple[Places, Frames, Tensor]:
        """Some kept frames.

        Returns:
            Where they are kept, the frames, and the weights float32 [count], 1 in the mean, that make up for how often
            each is drawn.
        """
        some = round(config.about_share * count) if self._about and config.emphasis else 0
        drawn = [self._draw(rng, number, config, kind) for kind, number in enumerate((count - some, some)) if number]
        order = rng.permutation(count)
        at, part, weights = (np.concatenate(of)[order] for of in zip(*drawn, strict=True))
        return Places(at, part), self._found(torch.from_numpy(at)), torch.from_numpy(weights.astype(np.float32))

    def _draw(
        self, rng: np.random.Generator, count: int, config: KeptConfig, kind: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        """Where frames drawn for one kind of errors are kept, of each the part it is drawn for, and its weight."""
        here, frames, chances = self._chances(config.emphasis, config.anywhere, kind)
        chosen = frames.searchsorted(rng.random(count) * frames[-1], side="right")
        part = np.zeros(count, np.intp)
        if self._parts > 1:
            within = chances[chosen].cumsum(1)
            part = (within <= rng.random((count, 1)) * within[:, -1:]).sum(1).clip(max=self._parts - 1)
        weights = (chances[chosen, part] * (chances.size / frames[-1])) ** -config.correction
        kept = len(chances) // len(here)
        at = np.ravel_multi_index((here[chosen // kept], chosen % kept), (self._rounds, kept))
        return at, part, weights / weights.mean()

    def _chances(self, emphasis: float, anywhere: float, kind: int) -> _Chances:
        """Where batches are kept, sums of frames' chances up to each, and of each those of its parts [F, parts]."""
        if (emphasis, anywhere, kind) not in self._told:
            here = np.flatnonzero(self._numbers >= 0)
            errors = self._errors[kind, here]
            own, lost = errors < 0, errors == _NEVER  # they are told in means
            mean = max(1e-12, errors.mean(where=~own, dtype=np.float64)) if not own.all() else 1.0
            most = np.inf if kind else _CEILING if self._parts == 1 else _CEILING_OF_PATCHES
            near = own & ~lost
            chances = np.where(own, np.where(lost, 0, -errors), np.minimum(errors / np.float32(mean), np.float32(most)))
            chances += np.float32(_FLOOR)
            torch.from_numpy(chances).pow_(emphasis)
            if near.any() and not own.all():  # by any power of errors they would hardly be drawn beside the worst
                total, ours = (chances.sum(where=some, dtype=np.float64) for some in (~own, near))
                chances[near] *= np.float32(near.sum() / (~own).sum() * total / ours)
            chances[lost] = 0
            chances *= np.float32((1 - anywhere) / chances.sum(dtype=np.float64))
            chances[~lost] += np.float32(anywhere / chances.size)
            chances = chances.reshape(-1, self._parts)
            self._told[emphasis, anywhere, kind] = here, chances.sum(1, dtype=np.float64).cumsum(), chances
        return self._told[emphasis, anywhere, kind]

    def _surprise(self, name: str, errors: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much worse patches were foretold than is usual at their place [N, L], by errors of one name.

        Something is a little wrong at a paddle in every frame, and much where a ball has just been hit: by plain errors
        the frames of hits were hardly drawn more often than others (docs/experiments/2026-11-27-fifteenth-pong.md).
        """
        now = errors.mean(0, dtype=np.float64)
        usual = self._usual.get(name, now)
        self._usual[name] = usual = usual + _FORGETS * (now - usual)
        surprise: NDArray[np.float64] = errors / np.maximum(usual + 0.5 * usual.mean(), 1e-12)
        return surprise

    def state(self) -> dict[str, Tensor]:
        """All that is needed to keep the same again: not the contexts, which the encoder makes anew."""
        state = {"numbers": torch.from_numpy(self._numbers.copy()), "errors": torch.from_numpy(self._errors.copy())}
        state |= {kind: torch.from_numpy(usual.copy()) for kind, usual in self._usual.items()}
        for place, (rows, packed) in self._own.items():
            state[f"own.{place}.rows"] = torch.tensor(rows)
            state[f"own.{place}.frames"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        return state

    def restore(self, state: dict[str, Tensor], clips: Callable[[int], Batch]) -> None:
        """Put back what :meth:`state` gave.

        Args:
            state: See :meth:`state`.
            clips: The batch of a number.

        Raises:
            RunError: it kept another number of clips, or frames whole where squares of them are to be drawn.
        """
        numbers, errors = state["numbers"].numpy(), state["errors"].numpy()
        ours = 1 + self._about, self._rounds, self._parts
        if errors.size and (len(errors), len(numbers), errors.shape[-1]) != ours:
            told = "replay.clips, replay.crop or replay.about"
            raise RunError(f"{told} is not what this run began its replay with: give what it was")
        for number in np.sort(numbers):
            if number < 0:
                continue
            batch, place = clips(int(number)), int(number) % self._rounds
            seen, own = self._model.see(batch.frames, self._objective.dtype), ()
            if f"own.{place}.rows" in state:
                own = tuple(state[f"own.{place}.rows"].tolist())
                packed = zlib.decompress(state[f"own.{place}.frames"].numpy().tobytes())
                frames = torch.frombuffer(bytearray(packed), dtype=torch.uint8).view(len(own), *seen.shape[1:])
                seen[list(own)] = self._model.shown(frames.to(seen.device), seen.dtype)
            self._put(int(number), batch, seen, own)
        self._errors = errors.copy()
        names = [name + kind for name in ("usual", "left") for kind in _KINDS]
        self._usual = {name: state[name].numpy().copy() for name in names if name in state}
        self._told = {}

    def _means(self, frames: Frames) -> list[NDArray[np.float64]]:
        """As how many mean errors the parts of frames count [N, parts], by whether they have changed; 1 on average.

        Of each kind of errors: of all, and of those of some things by whether these have.
        """
        kinds = len(self._errors)
        if self._parts == 1:
            return [np.ones((len(frames.past), 1))] * kinds
        busy = [changed(frames.past[:, -2], frames.past[:, -1]).astype(np.float64)]
        busy += [kind > _MOVED for kind in self._objective.moved(frames).cpu().numpy()[1:]]
        made = []
        for kind, some in enumerate(busy):
            total = some.sum(1, keepdims=True)
            rest = ANYWHERE if kind else 1.0  # where none of those things moves there is little to learn of them
            made.append(
                np.where(total > 0, ANYWHERE + (1 - ANYWHERE) * some * some.shape[1] / np.maximum(total, 1), rest)
            )
        return made

    def _lost(self, place: int, rows: list[int]) -> NDArray[np.bool_]:
        """Of which frames of rows that show own ones the past is no longer the recording's [rows, T]."""
        history, shown = self._model.config.history, self._held["shown"][place, rows].float()
        # What followed a frame is what came before the next; of the first one nothing is the model's own.
        real = torch.cat((shown[:, :1], self._held["following"][place, rows][:, :-1].float()), 1)
        pixels = (shown - real).div_(127.5).square_().sum(-1) / 3  # [rows, T, L]
        off = (pixels.amax(-1) > _BESIDE).cpu().numpy()
        padded = np.pad(off, ((0, 0), (history - 1, 0)))
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, history, 1).any(-1), np.bool_)

    def _found(self, at: Tensor) -> Frames:
        """Frames by their numbers int64 [N] among all that there is room for."""
        at = at.to(self._held["cue"].device)
        flat = {name: value.flatten(0, 2) for name, value in self._held.items()}
        ticks = self._held["cue"].shape[2]
        ages = torch.arange(self._model.config.history - 1, -1, -1, device=at.device)
        past = at[:, None] - torch.minimum(ages, (at % ticks)[:, None])  # before a clip's first frame it stood still
        return Frames(
            context=flat["context"][at],
            past=flat["shown"][past],
            previous=flat["previous"][at],
            following=flat["following"][at],
            cue=flat["cue"][at],
        )

    def _put(self, number: int, batch: Batch, seen: Tensor, own: Sequence[int]) -> int:
        place = number % self._rounds
        shown = to_uint8(seen.float())
        real = self._model.patchify(batch.frames)
        kept = {
            "context": self._objective.encode(seen, batch.actions),
            "shown": shown[:, :-1],
            "previous": self._model.previous_actions(batch.actions)[:, :-1],
            "following": real[:, 1:],
            "cue": batch.cues(self._model.config),
        }
        for name, value in kept.items():
            if name not in self._held:
                self._held[name] = torch.empty(self._rounds, *value.shape, dtype=value.dtype, device=value.device)
            self._held[name][place] = value
        if not self._errors.size:
            self._errors = np.zeros((1 + self._about, self._rounds, *batch.actions.shape, self._parts), np.float32)
        self._numbers[place] = number
        self._own.pop(place, None)
        if own:
            self._own[place] = tuple(own), zlib.compress(shown[list(own)].cpu().numpy().tobytes(), 1)
        return place
