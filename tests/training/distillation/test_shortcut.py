"""Shortcut forcing: a step leads where two of half its size do, and a world of them is played as any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.data.episodes import Dataset
from worldsim.engine.parts import DecodePart
from worldsim.engine.sampler import levels, sample
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.decoder import FrameDecoder, StepSizeEmbedding
from worldsim.model.world_model import WorldModel
from worldsim.training.ancestry import check_shape
from worldsim.training.computing import Computer
from worldsim.training.distillation.distill import main
from worldsim.training.distillation.methods import METHODS, DistillConfig
from worldsim.training.distillation.shortcut import Shortcut, TwoSteps, steps
from worldsim.training.distillation.teaching import Moments
from worldsim.world import World, load_world, save_world

SHAPE = ModelConfig(
    3, 16, 24, 8, margin=1, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4, shortcut=4
)
N = 12


@pytest.fixture(params=["convolutions", "tokens"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    generator, made = torch.Generator().manual_seed(0), WorldModel(replace(SHAPE, decoder=request.param))
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


def moments(step: int = 0) -> Moments:
    generator = torch.Generator().manual_seed(1)
    context, last = (torch.randn(N, SHAPE.tokens, size, generator=generator) for size in (SHAPE.dim, SHAPE.view_dim))
    real, noise = torch.randn(2, N, SHAPE.tokens, SHAPE.patch_dim, generator=generator)
    action, t = torch.randint(0, 3, (N,), generator=generator), torch.rand(N, generator=generator).clamp_min(0.05)
    return Moments(step, context, last, action, real.tanh(), [noise], [t], torch.ones(N))


def sampled(decoder: FrameDecoder, m: Moments, count: int) -> Tensor:
    """Frames of a sampler of so many steps, told of their size."""
    size = torch.full((N,), 1 / count)

    def denoise(x: Tensor, t: float) -> Tensor:
        return decoder(x, torch.full((N,), t), m.context, m.last, m.cue, size)

    return sample(denoise, m.noise[0], levels(count))


def test_sizes_between_two_that_are_known_are_between_their_vectors() -> None:
    told = StepSizeEmbedding(4, 1)
    assert not told(torch.tensor([1.0, 0.25])).any(), "nothing is told before it is learned"
    with torch.no_grad():
        told.weight.copy_(torch.tensor([[0.0], [1.0], [4.0]]))
    sizes = torch.tensor([1.0, 0.5, 0.25, 2**-0.5, 2**-1.5, 0.01])
    torch.testing.assert_close(told(sizes)[:, 0], torch.tensor([0.0, 1.0, 4.0, 0.5, 2.5, 4.0]))
    assert told(None).tolist() == [4.0]


def test_steps_lie_on_the_grid_of_their_size() -> None:
    t, size = steps(np.random.default_rng(0), 1000, 3)
    assert set(size.tolist()) == {1.0, 0.5, 0.25}, "the finest size is taught by recorded play"
    assert (t >= size).all() and (t <= 1).all() and not (t / size % 1).any()
    assert all(0.25 < (size == one).mean() < 0.42 for one in (1.0, 0.5, 0.25))
    assert {*t[size == 0.25].tolist()} == {0.25, 0.5, 0.75, 1.0}


def test_a_step_of_what_is_taught_ends_where_two_of_half_the_size_do(model: WorldModel) -> None:
    m = moments()
    t, size = torch.ones(N), torch.ones(N)
    with torch.no_grad():
        model.decoder.out.weight.mul_(0.02)  # so that it guesses frames in [-1, 1]
        all_the_way = TwoSteps(model.decoder)(m.noise[0], t, m.context, m.last, m.cue, size)
        torch.testing.assert_close(all_the_way, sampled(model.decoder, m, 2))
        # From three quarters to a quarter, in one step of what is taught.
        x, at = m.noise[0], 0.75
        wanted = TwoSteps(model.decoder)(x, at * t, m.context, m.last, m.cue, 0.5 * size)
        there = x + 0.5 / at * (wanted - x)
        for level in (0.75, 0.5):
            x0 = model.decoder(x, level * t, m.context, m.last, m.cue, 0.25 * size)
            x = x + 0.25 / level * (x0 - x)
    torch.testing.assert_close(there, x)


def test_one_step_learns_to_end_where_four_do(model: WorldModel) -> None:
    method = Shortcut(model, Computer(torch.float32, False), weight=1.0, seed=0)
    mover, apart = torch.optim.Adam(model.decoder.parameters(), 2e-3), []
    for step in range(241):
        m = moments(step)
        if step % 240 == 0:
            with torch.no_grad():
                one, four = (sampled(model.decoder, m, count) for count in (1, 4))
            apart.append(((one - four).square().mean(), (four - m.real).square().mean()))
        order = torch.from_numpy(np.random.default_rng(step).permutation(N))  # each frame is taught in both ways
        parts = (value[order] for value in (m.context, m.last, m.cue, m.real))
        noise = torch.randn(m.real.shape, generator=torch.Generator().manual_seed(step))
        ((who, loss),) = method.losses(Moments(step, *parts, [noise], m.levels, m.worth))
        assert who == "student"
        mover.zero_grad()
        loss.backward()
        mover.step()
    assert model.decoder.size is not None and model.decoder.size.weight.abs().max() > 0
    (steps_before, real_before), (steps_after, real_after) = apart
    assert steps_after < 0.1 * steps_before and real_after < 0.5 * real_before, apart


def test_frames_that_recorded_play_teaches_are_at_the_finest_size(model: WorldModel) -> None:
    method, m, seen = Shortcut(model, Computer(torch.float32, False), weight=1.0, seed=0), moments(), []
    modulations = model.decoder.modulations

    def listening(t: Tensor, action: Tensor, size: Tensor | None = None) -> list[Tensor]:
        seen.append((t, size))
        return modulations(t, action, size)

    model.decoder.modulations = listening  # type: ignore[method-assign]
    next(method.losses(m))
    *halves, (t, size) = seen
    assert (size[::2] == 0.25).all() and torch.equal(t[::2], m.levels[0][::2]) and (size[1::2] > 0.25).all()
    assert [torch.equal(told, size[1::2] / 2) for _, told in halves] == [True, True]
    assert torch.equal(halves[0][0], t[1::2]) and torch.equal(halves[1][0], (t - size / 2)[1::2])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_tick_tells_the_size_of_its_steps(model: WorldModel, count: int) -> None:
    m = moments()
    with torch.no_grad():
        made = DecodePart(model, levels(count))(m.noise[0], model.scene(m.context, m.last), m.cue)
        torch.testing.assert_close(made, sampled(model.decoder, m, count))
        other = copy.deepcopy(model)
        assert other.decoder.size is not None
        other.decoder.size.weight.zero_()
        assert (made - sampled(other.decoder, m, count)).abs().max() > 1e-3


def test_what_cannot_be_halved_is_said() -> None:
    with pytest.raises(RunError, match="shortcuts are halved: teacher_steps=12 must be a power of two"):
        DistillConfig(method="shortcut", teacher_steps=12)
    with pytest.raises(ValueError, match=r"model\.shortcut must be a power of two of at least 2, not 6"):
        replace(SHAPE, shortcut=6)


def test_what_takes_shortcuts_is_taught_no_more(
    make_world: Callable[..., World], pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other lessons are of the finest step alone, and would part it from the others."""
    world = make_world(shortcut=4)
    save_world(world, tmp_path / "world")
    assert load_world(tmp_path / "world").config.model.shortcut == 4
    for method in METHODS:
        told = [
            f"world={tmp_path / 'world'}",
            f"method={method}",
            f"data={pong_data.folder}",
            f"run={tmp_path / 'run'}",
        ]
        assert main(told) == 2
        assert "takes shortcuts already: distil the one that it was made from" in capsys.readouterr().err
    with pytest.raises(RunError, match="init=it takes shortcuts, which this would unlearn"):
        check_shape(world, "it", make_world().config.model)
