"""Regression to the teacher's trajectories, and consistency along them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.training.distillation.moment import moment, shaken
from worldsim.engine.sampler import levels, sample
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.regression import Consistency, ODEInitialisation, trajectory
from worldsim.training.distillation.teaching import Moments


def test_a_trajectory_ends_where_the_sampler_does_and_passes_through_its_own_levels() -> None:
    model, (context, last, action, noise) = shaken(), moment()

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        return model.decode(x, torch.full((len(x),), t), context, last, action)

    with torch.no_grad():
        first, middle, end = trajectory(denoise, noise, levels(8), levels(2)[:-1])
        torch.testing.assert_close(end, sample(denoise, noise, levels(8)))
        again = trajectory(denoise, middle, levels(8)[4:], ())[-1]
    assert first is noise
    torch.testing.assert_close(again, end)


def moments(step: int, model: WorldModel, level: float) -> Moments:
    context, last, action, noise = moment()
    real = torch.rand(noise.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Moments(step, context, last, action, real, [noise], [torch.full((5,), level)], torch.ones(5))


def test_trajectories_are_computed_once_and_learned_from_at_every_level(tmp_path: Path) -> None:
    teacher, student = shaken(), shaken(5)
    computer = Computer(torch.float32, False)
    method = ODEInitialisation(
        teacher, student, computer, at=levels(2), teacher_at=levels(4), weight=16.0, folder=tmp_path, kept=1
    )
    told = [next(method.losses(moments(step, teacher, 0.5)))[1] for step in range(4)]
    assert len(list(tmp_path.iterdir())) == 1
    assert told[0] == told[2] and told[1] == told[3] and told[0] != told[1], "level 1 and level 0.5 in turns"
    optimizer = torch.optim.Adam(student.decoder.parameters(), 1e-3)
    for step in range(2, 62):
        ((who, loss),) = method.losses(moments(step, teacher, 0.5))
        assert who == "student"
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = [next(method.losses(moments(step, teacher, 0.5)))[1] for step in range(2)]
    assert after[0] < 0.7 * told[0] and after[1] < 0.7 * told[1]


def test_consistency_ends_at_the_teachers_step_and_believes_the_average_before() -> None:
    teacher, student = shaken(), shaken(5)
    computer = Computer(torch.float32, False)
    even, near = (
        Consistency(teacher, student, computer, teacher_at=levels(4, shift), weight=1.0, ema=0.9) for shift in (1, 0.2)
    )
    near_levels = 0.2 * 0.75 / 0.4, 0.2 * 0.5 / 0.6
    for method, level, t, s in ((even, 0.1, 0.25, 0.0), (even, 0.6, 0.75, 0.5), (near, 0.6, *near_levels)):
        believed = method.networks["believed"]
        m = moments(0, teacher, level)
        ((_, loss),) = method.losses(m)
        at = torch.full((5,), t)
        noisy = torch.lerp(m.real, m.noise[0], t)
        with torch.no_grad():
            x0 = teacher.decode(noisy, at, m.context, m.last, m.cue)
            there = x0 + s / t * (noisy - x0)
            wanted = believed(there, torch.full((5,), s), m.context, m.last, m.cue) if s else there
            made = student.decode(noisy, at, m.context, m.last, m.cue)
        torch.testing.assert_close(loss.detach(), (made - wanted).square().mean(), rtol=1e-4, atol=1e-6)
