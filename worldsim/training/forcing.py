"""How monolithic designs are taught: which noise level each frame of a clip has, and the error of all of them.

A separable model is taught every frame given the recorded ones before it, whatever noise is drawn. Where one network
sees history and the frame to be made alike, history has a noise level too, and how it is chosen is the way of teaching:

- diffusion forcing (arXiv 2407.01392): every chunk has a level of its own, so history is mostly noisy;
- teacher forcing: history is clean, for twice the price (:meth:`~worldsim.model.dit.DiT.teach`);
- clips: the first frames are clean, the others share a level;
- buffered flow matching (StreamDiT, arXiv 2507.03745): levels rise along the buffer as they do when it moves, frame by
  frame or, mixed with that, in chunks of any size that share a level.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.engine.sampler import shift_levels
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import Design
from worldsim.model.dit import DiT
from worldsim.model.patches import patchify, shown
from worldsim.training.batches import stratified
from worldsim.training.computing import Computer
from worldsim.training.loss import moving

FORCINGS = ("diffusion", "teacher", "mixed")


@dataclass(frozen=True)
class Levelled:
    """Stretches of clips, with a noise level for each frame.

    Attributes:
        frames: uint8 [B, T, H, W, 3].
        led: int64 [B, T], the action that led to each frame; ``num_actions`` before a clip's first.
        t: float32 [B, T]; 0 is a frame that is given.
        noise: float32 [B, T, L, P].
    """

    frames: Tensor
    led: Tensor
    t: Tensor
    noise: Tensor

    def tensors(self) -> list[Tensor]:
        """In the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Forcing:
    """How a design is taught.

    Attributes:
        design: What is taught.
        model: Sizes of the world.
        how: One of :data:`FORCINGS`; ``teacher`` is for ``dit`` alone, ``mixed`` for buffers.
        shift: Of noise levels towards pure noise, see :func:`~worldsim.engine.sampler.shift_levels`; not of those of
            diffusion forcing, which are history too, and not of a buffer's.
        rewarded: See :class:`~worldsim.training.loss.LossConfig`.
        sampling_shift: Of the levels of a buffer's places, as of those that its sampler will ask for.

    Raises:
        RunError: there is no such way.
    """

    design: Design
    model: ModelConfig
    how: str
    shift: float
    rewarded: float = 0.0
    sampling_shift: float = 1.0

    def __post_init__(self) -> None:
        if self.how not in FORCINGS:
            raise RunError(f"forcing is {self.how!r}: there is {', '.join(FORCINGS)}")
        if self.how == "teacher" and self.design.kind != "dit":
            raise RunError(f"forcing={self.how} is for design=dit and dit:<k>, not {self.design}: leave it out")
        if self.how == "mixed" and not self.design.kind.startswith("stream"):
            raise RunError(f"forcing={self.how} is for designs of a moving buffer, not {self.design}: leave it out")

    @property
    def stretch(self) -> int | None:
        """Frames that the network sees at once; None: any number of whole chunks."""
        return None if self.design.kind == "dit" else self.design.frames + self.design.reference(self.model)

    @property
    def given(self) -> int:
        """Frames of such a stretch that come before those that are made."""
        return self.model.history if self.stretch is None else self.design.reference(self.model)

    def levels(self, rng: np.random.Generator, rows: int, frames: int) -> NDArray[np.float32]:
        """Noise levels [rows, frames] in [0, 1]."""
        made = self.design.frames
        if self.design.kind == "dit":
            u = stratified(rng, rows, -(-frames // made))
            t = u if self.how == "diffusion" else shift_levels(u, self.shift)
            return t.repeat(made, 1)[:, :frames]
        u = stratified(rng, rows, 1)
        chunk = np.ones((rows, 1), np.int64)
        if self.how == "mixed":  # StreamDiT's partitions: of one frame each, of all, and between
            chunk = rng.choice([k for k in range(1, made + 1) if made % k == 0], (rows, 1))
        even = ((np.arange(made) // chunk + u) * chunk / made).astype(np.float32)
        clip = self.design.kind == "clip"
        new = shift_levels(u, self.shift).repeat(made, 1) if clip else shift_levels(even, self.sampling_shift)
        return np.concatenate([np.zeros((rows, frames - made), np.float32), new], 1)

    def batch(self, store: ClipStore, seed: int, step: int, places: range, device: torch.device) -> Levelled:
        """The clips at ``places`` of batch number ``step``, in stretches: the same numbers whoever asks for them."""
        rows = [self._row(store, seed, step, place) for place in places]
        parts = (torch.from_numpy(np.concatenate(part)).to(device) for part in zip(*rows, strict=True))
        return Levelled(*parts)

    def _row(self, store: ClipStore, seed: int, step: int, place: int) -> tuple[NDArray[np.generic], ...]:
        ticks = min(self.model.window, store.length - 2)
        clip, rng = store.draw(seed, step, place, rewarded=self.rewarded, ticks=ticks)
        led = np.concatenate(([self.model.num_actions], clip.actions))
        size = self.stretch or store.length // self.design.frames * self.design.frames
        count = store.length // size
        frames = clip.frames[: count * size].reshape(count, size, *clip.frames.shape[1:])
        t = self.levels(rng, count, size)
        noise = rng.standard_normal((count, size, self.model.tokens, self.model.patch_dim), dtype=np.float32)
        return frames, led[: count * size].reshape(count, size), t, noise

    def error(
        self,
        network: DiT,
        clean: Tensor,
        led: Tensor,
        t: Tensor,
        noise: Tensor,
        weight: float,
        hindsight: float | None = None,
    ) -> Tensor:
        """Mean weighted error of x0 over the frames that are to be made.

        Pixels weigh by :func:`~worldsim.training.loss.moving`, told from what the network was given and from its own
        guesses, and with ``hindsight`` from the frames that are to be guessed.

        Args:
            network: Taught, or judged.
            clean: Frames as patches [B, T, L, P] in [-1, 1], in the network's dtype.
            led, t, noise: As of :class:`Levelled`.
            weight: Of pixels that may move.
            hindsight: As ``by`` of :func:`~worldsim.training.loss.moving`: whether from those frames alone, or too.
        """
        noisy = torch.lerp(clean, noise.to(clean), t.to(clean)[..., None, None])
        taught = self.design.kind == "dit" and self.how == "teacher"
        shown = clean if self.design.kind == "dit" else None  # what is before a chunk is clean in a roll-out
        made: Tensor = network.teach(clean, noisy, t, led) if taught else network(noisy, t, led, shown)
        guess, place = made.detach(), torch.arange(t.shape[1], device=t.device)
        # A constant: inductor fails at `place // frames` where it is summed over (PyTorch 2.13, dit:4 with a teacher).
        chunk = torch.tensor([i // self.design.frames for i in range(t.shape[1])], device=t.device)

        def known(ago: int) -> Tensor:
            """Of each frame the one so many before it, as far as it was given; else the guess."""
            at = (place - ago).clamp_min(0)
            given = (chunk[at] < chunk).expand_as(t) if taught else t[:, at] == 0
            return torch.where(given[..., None, None], clean[:, at], guess[:, at])

        # What did move is told from recorded frames, whatever of them the network was given.
        told = clean[:, (place - 1).clamp_min(0)] if hindsight else known(1)
        weights = moving(self.model, known(2), told, guess, clean, weight, hindsight)
        each = ((made.float() - clean.float()).square() * weights).mean((2, 3))
        wanted = (chunk > 0).expand_as(t) if taught else t > 0
        return (each * wanted).sum() / wanted.sum()


class ForcingObjective:
    """:meth:`Forcing.error`, computed in ``dtype`` from float32 weights; arguments as of
    :class:`~worldsim.training.computing.Computer`.
    """

    def __init__(
        self,
        network: DiT,
        forcing: Forcing,
        weight: float,
        dtype: torch.dtype,
        compiled: bool,
        *,
        hindsight: float | None = None,
    ) -> None:
        computer = Computer(dtype, compiled)
        lesson = _Lesson(network, forcing, weight, hindsight, dtype)
        self._error = computer.computed(lesson)

    def loss(self, batch: Levelled) -> Tensor:
        """The mean weighted error, with gradient."""
        error: Tensor = self._error(*batch.tensors())
        return error


class _Lesson(torch.nn.Module):
    def __init__(
        self, network: DiT, forcing: Forcing, weight: float, hindsight: float | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.network, self.forcing, self.dtype = network, forcing, dtype
        self.weight, self.hindsight = weight, hindsight

    def forward(self, *given: Tensor) -> Tensor:
        batch = Levelled(*given)
        clean = shown(patchify(batch.frames, self.forcing.model), self.dtype)
        return self.forcing.error(self.network, clean, batch.led, batch.t, batch.noise, self.weight, self.hindsight)


@torch.inference_mode()
def held_out_error(network: DiT, forcing: Forcing, store: ClipStore, clips: int, seed: int = 0) -> dict[str, float]:
    """Error of the guess from pure noise on held-out clips, given clean frames: a roll-out's first.

    Args:
        network: On the device to use.
        forcing: Says how many frames are made together.
        store: Held-out clips.
        clips: How many to draw.
        seed: Of the draw.

    Returns:
        Root mean square error of ``all`` pixels in grey levels (0-255), of the last frames that are made together.
    """
    weight, c, made = next(network.parameters()), forcing.model, forcing.design.frames
    total, values = 0.0, 0
    for place in range(clips):
        clip, rng = store.draw(seed, 0, place)
        size = forcing.stretch or store.length // made * made
        clean = shown(patchify(torch.from_numpy(clip.frames[:size])[None].to(weight.device), c), weight.dtype)
        led = torch.from_numpy(np.concatenate(([c.num_actions], clip.actions))[:size])[None].to(weight.device)
        t = torch.zeros(1, size, device=weight.device)
        if forcing.design.kind.startswith("stream"):
            t[:, -made:] = torch.arange(1, made + 1, device=weight.device) / made
        else:
            t[:, -made:] = 1
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(clean)
        x0 = network(torch.lerp(clean, noise, t.to(clean)[..., None, None]), t, led)
        total += float((x0 - clean)[:, -made:].float().mul(127.5).square().sum())
        values += clean[:, -made:].numel()
    return {"all": (total / values) ** 0.5}
