"""The decoder alone, on contexts that a resting encoder left behind.

What moves by a rule of its own (a ball that meets a paddle) does so in one frame of a hundred, and clips bring all the
other frames along, whose encoder pass costs more than the decoder's. Once the encoder rests, its contexts can be kept:
the decoder then learns from frames of many games at once, most often from those that it still gets wrong (prioritised
experience replay, arXiv 1511.05952).
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.conv_decoder import ConvDecoder
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.crops import ANYWHERE, Crops, changed, cut
from worldsim.training.loss import Batch, LossConfig, attention

NEAR = 2  # ticks around a frame whose errors count as its own when it arrives: what is hard comes with its neighbours
_CEILING, _FLOOR = 30.0, 0.1  # of errors, in means
_CEILING_OF_PATCHES = 100.0  # a ball is a larger part of a patch than of a frame
_FORGETS = 0.05  # of what is usual, with each batch of clips


@dataclass(frozen=True)
class KeptConfig:
    """Which contexts are kept, and how frames of them are drawn.

    Attributes:
        frames: Frames in a step, over all processes.
        clips: Clips whose contexts are kept, over all processes; 4 MB each for 48 frames of 64 tokens of 256 numbers.
        first: Of these, how many before the first step.
        every: Steps from which on ``batch`` new clips take the oldest ones' place.
        emphasis: Frames are drawn by their error to this power (alpha in arXiv 1511.05952).
        correction: They weigh what they were drawn too often, to this power (beta). With 0.8, what nobody can know (a
            served ball) was foretold too often (docs/experiments/2026-11-22-eighth-pong.md).
        crop: Patches along a side of the square of each frame that is learned from, see
            :class:`~worldsim.training.crops.Crops`; None: whole frames. Squares are drawn by the errors of their middle
            patches, frames by that of the patch which is foretold worst for its place; both by what they were on
            arrival. Were they learned anew, the ticks before and after a hit would soon be drawn less often than it,
            and hits foretold too early.
    """

    frames: int = 282
    clips: int = 2400
    first: int = 300
    every: int = 2
    emphasis: float = 1.0
    correction: float = 1.0
    crop: int | None = None


@dataclass(frozen=True)
class MomentsConfig(KeptConfig):
    """How the decoder begins.

    A clip's pass through the encoder costs several times a pass of the decoder, and what happens near a thing is told
    by the last few frames: so the decoder first learns from those alone, from many more moments than whole clips would
    bring along. They are drawn evenly unless told otherwise: drawn by how badly they are foretold from the beginning,
    everything is learned later (docs/experiments/2026-11-27-fifteenth-pong.md).

    Attributes:
        steps: Steps of it, before those of the whole model; 0: none.
        own_share: Of the clips that arrive, which show the model's own frames.
        own_after: Share of these steps after which they do.
    """

    frames: int = 16
    clips: int = 1200
    first: int = 300
    every: int = 20
    emphasis: float = 0.0
    steps: int = 30_000
    own_share: float = 0.34
    own_after: float = 0.4


@dataclass(frozen=True)
class ReplayConfig(KeptConfig):
    """How the decoder is finished.

    Attributes:
        steps: Steps of it, after those of the whole model and before those of the heads; 0: none.
        rate: The optimisers' rates at the beginning, in those of the whole model's; they fall linearly to zero.
    """

    steps: int = 4000
    rate: float = 0.75


@dataclass(frozen=True)
class Frames:
    """Single frames with all that the decoder needs to foretell the next one.

    Attributes:
        context: [N, L, D]; [N, 0] where the decoder learns from blind ones.
        past: Patches of the last frames as they were shown, the newest last, uint8 [N, history, L, P].
        previous: int64 [N], the action before the last frame.
        following: Patches of the recorded frame that follows, uint8 [N, L, P].
        action: int64 [N], the action before that one.
    """

    context: Tensor
    past: Tensor
    previous: Tensor
    following: Tensor
    action: Tensor


@dataclass(frozen=True)
class Places:
    """Where drawn frames are kept.

    Attributes:
        frames: Their numbers [N].
        patches: Of each one patch that it was drawn for [N]; all 0 where frames are drawn whole.
    """

    frames: NDArray[np.intp]
    patches: NDArray[np.intp]


class _Guess(nn.Module):
    """The next frame from kept ones, as a module, so that it can be called with its parameters in another format.

    Args:
        model: Whose decoder it is.
        blind: Whether contexts are the encoder's blind ones.
        drawer: Of squares, with the same weights; None: of whole frames.
    """

    def __init__(self, model: WorldModel, blind: bool, drawer: WorldModel | None = None) -> None:
        super().__init__()
        self.decoder, self._blind = model.decoder, blind
        self.encoder = model.encoder if blind else None
        # The same weights again: as parts of this module they would be swapped twice.
        self._model, self._drawer = [model], [drawer or model]

    @property
    def layout(self) -> ModelConfig:
        """Of what it draws."""
        return self._drawer[0].config

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        context: Tensor,
        past: Tensor,
        previous: Tensor,
        action: Tensor,
        squares: Tensor | None,
    ) -> Tensor:
        decoder = self._drawer[0].decoder
        if self.encoder is not None:
            context = self.encoder.blind(previous)
        context = cut(context, squares)
        if isinstance(decoder, ConvDecoder) and not self.layout.extrapolated:  # views' margins are not looked at
            scene = decoder.scene_of(context, cut(past, None if squares is None else squares[:, None]))
        else:
            scene = decoder.scene(context, cut(self._model[0].view_of(past), squares))
        return decoder.denoise(noisy, scene, decoder.modulations(t, action))


class DecoderObjective:
    """Errors of the decoder on single frames, computed in ``dtype`` from float32 weights.

    Args:
        model: Its decoder is trained.
        config: Of the loss.
        dtype: Of all that is computed.
        compiled: Whether with torch.compile.
        crops: Of the frames that :meth:`loss` is told squares of.
        blind: Whether no context is kept, and the decoder learns from the encoder's blind ones, which learn with it.
    """

    def __init__(
        self,
        model: WorldModel,
        config: LossConfig,
        dtype: torch.dtype,
        compiled: bool,
        crops: Crops | None = None,
        *,
        blind: bool = False,
    ) -> None:
        frozen = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
        computer = Computer(dtype, compiled)
        weight = config.moved_weight
        whole, square = _Guess(model, blind), _Guess(model, blind, crops.within(model) if crops else None)

        def errors(squares: Tensor | None, t: Tensor, noise: Tensor, *given: Tensor) -> Tensor:
            frames = Frames(*given)
            past, following = model.shown(frames.past, dtype), cut(model.shown(frames.following, dtype), squares)
            guess, level = whole if squares is None else square, t.to(dtype)
            noisy = torch.lerp(following, noise, level[:, None, None])
            x0 = computer.call(guess, noisy, level, frames.context, past, frames.previous, frames.action, squares)
            before, last = (cut(past[:, at], squares) for at in (-2, -1))
            weights = attention(guess.layout, before, last, x0, weight)
            each: Tensor = ((x0.float() - following.float()).square() * weights).mean(2)
            return each

        def loss(squares: Tensor | None, weights: Tensor, *given: Tensor) -> Tensor:
            return (errors(squares, *given).mean(1) * weights).mean()

        @torch.no_grad()
        def arrival(noise: Tensor, *given: Tensor) -> Tensor:
            return errors(None, torch.ones(len(noise), device=noise.device), noise, *given)

        @torch.no_grad()
        def encode(seen: Tensor, actions: Tensor) -> Tensor:
            if blind:
                return seen.new_empty(*actions.shape, 0)
            previous = frozen.previous_actions(actions)
            context: Tensor = frozen.encode(frozen.views(seen), previous, torch.zeros_like(previous))
            return context[:, :-1]

        self.dtype = dtype
        self._loss, self._arrival, self._encode = computer.built(loss), computer.built(arrival), computer.built(encode)

    def loss(
        self, frames: Frames, weights: Tensor, t: Tensor, noise: Tensor, squares: Tensor | None = None
    ) -> Tensor:
        """The weighted mean error at noise levels t [N].

        Of ``squares`` [N, K] of the frames' patches, where they are given: ``noise`` is then that of theirs [N, K, P].
        """
        result: Tensor = self._loss(squares, weights, t, noise.to(self.dtype), *_values(frames))
        return result

    def arrival(self, frames: Frames, noise: Tensor) -> Tensor:
        """Errors [N, L] of patches of the guess from pure noise."""
        errors: Tensor = self._arrival(noise.to(self.dtype), *_values(frames))
        return errors

    def encode(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Contexts [B, T-1, L, D] of clips' patches [B, T, L, P], but of their last frames; [B, T-1, 0] if blind."""
        contexts: Tensor = self._encode(seen, actions)
        return contexts


class Replay:
    """Kept batches of clips, the newest in place of the oldest.

    Args:
        objective: Encodes what arrives and tells how well it is foretold.
        model: For its patches.
        rounds: Batches that are kept.
        seed: Of the noise that arriving frames are judged with.
        patches: Whether each patch has an error of its own; else the frame has one.
    """

    def __init__(
        self, objective: DecoderObjective, model: WorldModel, rounds: int, seed: int, *, patches: bool = False
    ) -> None:
        self._objective, self._model, self._rounds, self._seed = objective, model, rounds, seed
        self._parts = model.config.tokens if patches else 1
        self._held: dict[str, Tensor] = {}
        self._numbers = np.full(rounds, -1)
        self._own: dict[int, tuple[tuple[int, ...], bytes]] = {}
        self._errors = np.zeros(0)
        self._usual: NDArray[np.float64] | None = None  # of patches, where frames are drawn whole
        self._told: tuple[float, tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]] | None = None

    def __len__(self) -> int:
        """Batches so far."""
        return int((self._numbers >= 0).sum())

    def add(self, number: int, batch: Batch, seen: Tensor, own: Sequence[int]) -> None:
        """Keep a batch.

        Args:
            number: Of the batch, one more than the last one's.
            batch: Real clips.
            seen: Patches [B, T, L, P] of what the encoder is shown of them.
            own: The rows that show the model's own frames. They are drawn as often as the mean one, and their patches
                by whether they have just changed: their errors may be those of a history that has lost the ball.
        """
        place = self._put(number, batch, seen, own)
        moments = batch.actions.numel()
        frames = self._found(torch.arange(place * moments, (place + 1) * moments))
        shape = frames.following.shape
        chance = int(np.random.default_rng((self._seed, number)).integers(2**62))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(chance))
        errors = self._objective.arrival(frames, noise.to(seen.device)).cpu().numpy()
        if self._parts == 1:
            errors = self._surprise(errors).max(1)
        errors = errors.reshape(len(seen), -1, self._parts)
        padded = np.pad(errors, ((0, 0), (NEAR, NEAR), (0, 0)), mode="edge")
        near = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEAR + 1, 1).max(-1)
        self._errors[place] = near
        self._errors[place, list(own)] = -self._means(frames).reshape(near.shape)[list(own)]
        self._told = None

    def draw(self, rng: np.random.Generator, count: int, config: KeptConfig) -> tuple[Places, Frames, Tensor]:
        """Some kept frames.

        Returns:
            Where they are kept, the frames, and the weights float32 [count], 1 in the mean, that make up for how often
            each is drawn.
        """
        here, frames, chances = self._chances(config.emphasis)
        chosen = frames.searchsorted(rng.random(count) * frames[-1], side="right")
        part = np.zeros(count, np.intp)
        if self._parts > 1:
            within = chances[chosen].cumsum(1)
            part = (within <= rng.random((count, 1)) * within[:, -1:]).sum(1).clip(max=self._parts - 1)
        weights = (chances[chosen, part] * (chances.size / frames[-1])) ** -config.correction
        kept = len(chances) // len(here)
        at = np.ravel_multi_index((here[chosen // kept], chosen % kept), (self._rounds, kept))
        index = torch.from_numpy(at)
        return Places(at, part), self._found(index), torch.from_numpy((weights / weights.mean()).astype(np.float32))

    def _chances(self, emphasis: float) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Where batches are kept, sums of frames' chances up to each, and of each those of its parts [F, parts]."""
        if self._told is None or self._told[0] != emphasis:
            here = np.flatnonzero(self._numbers >= 0)
            errors = self._errors[here]
            mean = errors[errors >= 0].mean() if (errors >= 0).any() else 1.0
            highest = _CEILING if self._parts == 1 else _CEILING_OF_PATCHES
            wanted = np.where(errors < 0, -errors * mean, np.minimum(errors, highest * mean)) + _FLOOR * mean
            chances = wanted.reshape(-1, self._parts) ** emphasis
            self._told = emphasis, (here, chances.sum(1).cumsum(), chances)
        return self._told[1]

    def _surprise(self, errors: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much worse patches were foretold than is usual at their place [N, L].

        Something is a little wrong at a paddle in every frame, and much where a ball has just been hit: by plain errors
        the frames of hits were hardly drawn more often than others (docs/experiments/2026-11-27-fifteenth-pong.md).
        """
        now = errors.mean(0, dtype=np.float64)
        self._usual = now if self._usual is None else self._usual + _FORGETS * (now - self._usual)
        surprise: NDArray[np.float64] = errors / np.maximum(self._usual + 0.5 * self._usual.mean(), 1e-12)
        return surprise

    def state(self) -> dict[str, Tensor]:
        """All that is needed to keep the same again: not the contexts, which the encoder makes anew."""
        state = {"numbers": torch.from_numpy(self._numbers.copy()), "errors": torch.from_numpy(self._errors.copy())}
        if self._usual is not None:
            state["usual"] = torch.from_numpy(self._usual.copy())
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
        parts = 1 if errors.ndim < 4 else errors.shape[-1]  # frames' own errors once had no dimension for parts
        if errors.size and (len(numbers), parts) != (self._rounds, self._parts):
            raise RunError("replay.clips or replay.crop is not what this run began its replay with: give what it was")
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
        self._errors = errors.reshape(self._errors.shape).copy()
        self._usual = state["usual"].numpy().copy() if "usual" in state else None
        self._told = None

    def _means(self, frames: Frames) -> NDArray[np.float64]:
        """As how many mean errors the parts of frames count [N, parts], by whether they have changed; 1 on average."""
        if self._parts == 1:
            return np.ones((len(frames.past), 1))
        busy = changed(frames.past[:, -2], frames.past[:, -1]).astype(np.float64)
        total = busy.sum(1, keepdims=True)
        return np.where(total > 0, ANYWHERE + (1 - ANYWHERE) * busy * busy.shape[1] / np.maximum(total, 1), 1.0)

    def _found(self, at: Tensor) -> Frames:
        """Frames by their numbers int64 [N] among all that there is room for."""
        at = at.to(self._held["action"].device)
        flat = {name: value.flatten(0, 2) for name, value in self._held.items()}
        ticks = self._held["action"].shape[2]
        ages = torch.arange(self._model.config.history - 1, -1, -1, device=at.device)
        past = at[:, None] - torch.minimum(ages, (at % ticks)[:, None])  # before a clip's first frame it stood still
        return Frames(
            context=flat["context"][at],
            past=flat["shown"][past],
            previous=flat["previous"][at],
            following=flat["following"][at],
            action=flat["action"][at],
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
            "action": batch.actions,
        }
        for name, value in kept.items():
            if name not in self._held:
                self._held[name] = torch.empty(self._rounds, *value.shape, dtype=value.dtype, device=value.device)
            self._held[name][place] = value
        if not self._errors.size:
            self._errors = np.zeros((self._rounds, *batch.actions.shape, self._parts))
        self._numbers[place] = number
        self._own.pop(place, None)
        if own:
            self._own[place] = tuple(own), zlib.compress(shown[list(own)].cpu().numpy().tobytes(), 1)
        return place


def _values(frames: Frames) -> list[Tensor]:
    return [getattr(frames, field.name) for field in fields(frames)]
