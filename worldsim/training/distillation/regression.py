"""Distillation without a critic: the student regresses to where the teacher's ODE leads.

The teacher's sampler is an ODE solver, x_s = x0(x_t, t) + (s / t) (x_t - x0(x_t, t)). Both methods here teach the
student to say at once, from any of its own levels, where many small steps of that end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim.checkpoint import load_checkpoint, save_checkpoint
from worldsim.engine.sampler import Denoise as DenoiseAt
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.teaching import Denoise, Method, Moments, weighted_error
from worldsim.training.optimizer import update_ema


def trajectory(denoise: DenoiseAt, noise: Tensor, at: Sequence[float], kept: Sequence[float]) -> list[Tensor]:
    """Points of the ODE that a sampler follows.

    Args:
        denoise: See :data:`~worldsim.engine.sampler.Denoise`.
        noise: Where it begins [N, L, P].
        at: Falling noise levels from 1 to 0.
        kept: Some of them, falling, without the 0.

    Returns:
        x_t [N, L, P] at each kept level, and last x_0.
    """
    x, points = noise, []
    for t, s in zip(at[:-1], at[1:], strict=True):
        if t in kept:
            points.append(x)
        x0 = denoise(x, t)
        x = x0 if s == 0 else x0 + (s / t) * (x - x0)
    return [*points, x]


class ODEInitialisation(Method):
    """The student regresses from points of the teacher's trajectories to their ends (CausVid, arXiv 2412.07772,
    section 4.3 and equation 6).

    Trajectories are computed once, for the first ``kept`` steps, written into the run, and learned from again and
    again.

    Args:
        teacher: Whole and frozen.
        student: Shares the encoder; its decoder learns.
        computer: Of everything.
        at: Noise levels of the student's sampler, all of them the teacher's, too.
        teacher_at: Of the teacher's.
        weight: Of pixels that move.
        folder: Where trajectories are kept.
        kept: Of how many steps.
    """

    def __init__(
        self,
        teacher: WorldModel,
        student: WorldModel,
        computer: Computer,
        *,
        at: Sequence[float],
        teacher_at: Sequence[float],
        weight: float,
        folder: Path,
        kept: int,
    ) -> None:
        self.networks = {"student": student.decoder}
        self._teacher, self._weight, self._folder, self._kept = teacher, weight, folder, kept
        self._levels = at[:-1]
        solves, says = _Solve(teacher, teacher_at, self._levels), Denoise(student.decoder)
        self._solve = computer.computed(solves, gradient=False)
        self._say = computer.computed(says)

    def losses(self, moments: Moments) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Method`. The moments of step n are to be those of step n modulo ``kept``."""
        m, path = moments, self._folder / f"{moments.step % self._kept:06d}.safetensors"
        if path.exists():
            held = load_checkpoint(path)[0]
            *points, end = (held[str(i)] for i in range(len(held)))
        else:
            *points, end = self._solve(m.noise[0], m.context, m.last, m.cue)
            save_checkpoint(path, {str(i): one for i, one in enumerate([*points, end])}, {"step": m.step})
        k = m.step // self._kept % len(points)
        t = torch.full_like(m.levels[0], self._levels[k])
        made = self._say(points[k].to(m.last), t, m.context, m.last, m.cue)
        yield "student", m.mean(weighted_error(made, end.to(made), m.last, self._teacher, self._weight))


class Consistency(Method):
    """The student says the same from neighbouring points of the teacher's ODE (consistency distillation, arXiv
    2303.01469, equation 7), and at its end the end itself.

    Args:
        teacher: Whole and frozen.
        student: Shares the encoder; its decoder learns.
        computer: Of everything.
        teacher_at: Noise levels of the teacher's sampler; neighbours are next to each other among them.
        weight: Of pixels that move.
        ema: Of the student that is believed.
    """

    def __init__(
        self,
        teacher: WorldModel,
        student: WorldModel,
        computer: Computer,
        *,
        teacher_at: Sequence[float],
        weight: float,
        ema: float,
    ) -> None:
        self._teacher, self._weight, self._ema = teacher, weight, ema
        self._at = torch.tensor(teacher_at)
        believed = copy.deepcopy(student.decoder).requires_grad_(False)
        self.networks = {"student": student.decoder, "believed": believed}
        leads, tells, says = Denoise(teacher.decoder), Denoise(believed), Denoise(student.decoder)

        @torch.no_grad()
        def neighbour(x: Tensor, t: Tensor, s: Tensor, context: Tensor, last: Tensor, cue: Tensor) -> Tensor:
            x0 = computer.call(leads, x, t, context, last, cue)
            there = x0 + (s / t)[:, None, None] * (x - x0)
            told = computer.call(tells, there, s, context, last, cue)
            wanted: Tensor = torch.where(s[:, None, None] > 0, told, there)
            return wanted

        self._neighbour = computer.built(neighbour)
        self._say = computer.computed(says)

    def losses(self, moments: Moments) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Method`."""
        m = moments
        update_ema(self.networks["believed"].parameters(), self.networks["student"].parameters(), m.step, self._ema)
        steps = len(self._at) - 1
        place = steps - (m.levels[0].float() * steps).ceil().clamp(1, steps).long()  # of numbers in (0, 1]
        at = self._at.to(m.noise[0])
        t, s = at[place], at[place + 1]
        noisy = torch.lerp(m.real, m.noise[0], t[:, None, None])
        wanted = self._neighbour(noisy, t, s, m.context, m.last, m.cue)
        made = self._say(noisy, t, m.context, m.last, m.cue)
        yield "student", m.mean(weighted_error(made, wanted, m.last, self._teacher, self._weight))


class _Solve(nn.Module):
    def __init__(self, model: WorldModel, at: Sequence[float], kept: Sequence[float]) -> None:
        super().__init__()
        self.decoder, self.at, self.kept = model.decoder, tuple(at), tuple(kept)

    def forward(self, noise: Tensor, context: Tensor, last: Tensor, cue: Tensor) -> list[Tensor]:
        scene = self.decoder.scene(context, last)

        def denoise(x: Tensor, t: float) -> Tensor:
            level = torch.full_like(cue, 1, dtype=noise.dtype) * t
            made: Tensor = self.decoder.denoise(x, scene, self.decoder.modulations(level, cue))
            return made

        return trajectory(denoise, noise, self.at, self.kept)
