"""Where the moments come from that a distillation learns from: recorded clips, kept contexts, roll-outs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.model.world_model import WorldModel
from worldsim.training.batches import stream
from worldsim.training.computing import Computer
from worldsim.training.crops import cut
from worldsim.training.distillation.self_forcing import RollOuts
from worldsim.training.distillation.teaching import Begun, Encode, Moments
from worldsim.training.loss import LossConfig
from worldsim.training.objective import Objective
from worldsim.training.own import own_rows
from worldsim.training.rehearsal import Rehearsal


@dataclass(frozen=True)
class Source:
    """What every way to come to moments needs.

    Attributes:
        teacher: Its encoder is everybody's.
        student: Makes own frames.
        computer: Of everything.
        clips: Recorded ones.
        loss: Says how many clips show own frames, and how noise is drawn.
        seed: Of clips and noise.
        places: This process's clips of those that arrive together.
        device: Where it is computed.
    """

    teacher: WorldModel
    student: WorldModel
    computer: Computer
    clips: ClipStore
    loss: LossConfig
    seed: int
    places: range
    device: torch.device

    def objective(self) -> Objective:
        """What makes the student's own frames."""
        return Objective(self.student, self.loss, self.computer.dtype, self.computer.compiled)


def streamed(source: Source, ahead: range, again: int | None = None) -> Generator[Moments, None, None]:
    """All frames of new clips in every step.

    Args:
        source: See :class:`Source`.
        ahead: Steps.
        again: After so many steps the same clips and noise come again; None: never.
    """
    s, dtype = source, source.computer.dtype
    objective, encode = s.objective(), s.computer.computed(Encode(s.teacher), gradient=False)
    own = own_rows(s.places, s.loss.own_share)
    numbers = [step % again for step in ahead] if again else ahead
    with closing(stream(s.clips, s.teacher.config, s.loss, s.seed, numbers, s.places, s.device)) as batches:
        for step, (_, batch) in zip(ahead, batches, strict=True):
            context, last = encode(objective.show(batch, own), s.student.previous_actions(batch.actions))
            yield Moments(
                step,
                context,
                last,
                batch.cues(s.teacher.config).flatten(),
                s.teacher.see(batch.frames[:, 1:], dtype).flatten(0, 1),
                [one.flatten(0, 1).to(dtype) for one in batch.noise.unbind(1)],
                [one.flatten().to(dtype) for one in batch.t.unbind(1)],
                torch.ones(len(context), device=s.device),
            )


def rolled(source: Source, ahead: range, at: Sequence[float]) -> Generator[Moments, None, None]:
    """All frames of the student's roll-outs, in denoising steps at such levels, from the first window of new clips; see
    :mod:`worldsim.training.distillation.self_forcing`.
    """
    s, dtype, window = source, source.computer.dtype, source.teacher.config.window
    rolls = RollOuts(s.student, s.computer, at=at, rows=len(s.places))
    with closing(stream(s.clips, s.teacher.config, s.loss, s.seed, ahead, s.places, s.device)) as batches:
        for step, batch in batches:
            # Draws [K, B, ...] of the ticks that are rolled out.
            noise = batch.noise[:, :, window - 1 :].to(dtype).permute(1, 2, 0, 3, 4)
            t = batch.t[:, :, window - 1 :].to(dtype).permute(1, 2, 0)
            told = batch.cues(s.teacher.config)[:, window - 1 :]
            context, last = rolls.roll(batch.frames[:, :window], batch.actions, told, noise[0].unbind(0))
            yield Moments(
                step,
                context.flatten(0, 1),
                last.flatten(0, 1),
                told.T.flatten(),
                s.teacher.see(batch.frames[:, window:].transpose(0, 1), dtype).flatten(0, 1),
                [one.flatten(0, 1) for one in noise],
                [one.flatten() for one in t],
                torch.ones(t[0].numel(), device=s.device),
                Begun(
                    s.teacher.see(batch.frames[:, :window], dtype),
                    s.teacher.previous_actions(batch.actions)[:, :window],
                ),
            )


def drawn(source: Source, ahead: range, rehearsal: Rehearsal) -> Generator[Moments, None, None]:
    """Frames of kept contexts, most often those that the teacher cannot foretell, or squares of them."""
    model, dtype = source.teacher, source.computer.dtype

    @torch.no_grad()
    def view(past: Tensor) -> Tensor:
        return model.view_of(model.shown(past, dtype))

    view = source.computer.built(view)
    with closing(rehearsal):
        for step in ahead:
            found = rehearsal.draw(step, source.loss.draws)
            frames, squares = found.frames, found.squares
            yield Moments(
                step,
                cut(frames.context, squares),
                cut(view(frames.past), squares),
                frames.cue,
                model.shown(cut(frames.following, squares), dtype),
                found.noise.to(dtype).unbind(0),
                torch.from_numpy(found.levels).to(source.device, dtype).unbind(0),
                found.worth,
            )
