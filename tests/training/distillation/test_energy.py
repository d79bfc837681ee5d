"""The energy score: it is least where made frames come as often as real ones, and a network learns to choose by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.energy import EnergyScore, distance, energy_score
from worldsim.training.distillation.methods import DistillConfig
from worldsim.training.distillation.teaching import Moments

SIDE = 16


def ball(row: int, column: int, bright: float = 1.0) -> Tensor:
    frame = -torch.ones(SIDE, SIDE, 3)
    frame[row : row + 2, column : column + 2] += 2 * bright
    return frame


LEFT, RIGHT = ball(6, 3), ball(6, 9)
FAINT = (LEFT + RIGHT) / 2


def expected(frames: list[tuple[float, Tensor]]) -> float:
    """The score of a sampler that makes frames with these chances, where the real one is left or right alike."""
    total = 0.0
    for chance, first in frames:
        for other, second in frames:
            for real in (LEFT, RIGHT):
                made = torch.stack((first, second))[:, None]
                total += chance * other * 0.5 * float(energy_score(made, real[None], torch.ones(1)))
    return total


def test_the_least_score_is_that_of_the_distribution_that_is_there() -> None:
    right_ones = expected([(0.5, LEFT), (0.5, RIGHT)])
    for wrong in (
        [(1.0, FAINT)],
        [(1.0, LEFT)],
        [(0.8, LEFT), (0.2, RIGHT)],
        [(0.5, ball(6, 3, 0.5)), (0.5, ball(6, 9, 0.5))],
        [(1.0, torch.maximum(LEFT, RIGHT))],
        [(1.0, ball(6, 3, 0))],
    ):
        assert right_ones < 0.95 * expected(wrong), wrong


def test_members_are_only_held_apart_where_their_noise_says_nothing() -> None:
    made, real = torch.stack((LEFT, RIGHT))[:, None].expand(2, 2, -1, -1, -1), LEFT.expand(2, -1, -1, -1)
    told, pure = energy_score(made, real, torch.tensor([0.0, 1.0]))
    between = float(distance(LEFT[None], RIGHT[None]))
    assert float(told) == pytest.approx(between / 2)
    assert float(pure) == pytest.approx(0.0, abs=1e-6)


def test_a_distance_is_that_of_things_and_not_of_where_in_the_frame_they_are() -> None:
    inside = float(distance(ball(10, 10)[None], ball(10, 10, 0)[None]))
    corner = float(distance(ball(0, 0)[None], ball(0, 0, 0)[None]))
    assert corner == pytest.approx(inside)
    assert float(distance(LEFT[None], LEFT[None])) == 0.0


def test_a_network_learns_to_choose_by_its_noise() -> None:
    """Fed 192 numbers of noise, as a patch is, and shown balls on the left and on the right."""
    torch.manual_seed(0)
    layers = nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, SIDE * SIDE * 3)
    network, steps = nn.Sequential(*layers), 1000
    mover = torch.optim.Adam(network.parameters())
    for step in range(steps):
        mover.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        real = torch.stack((LEFT, RIGHT))[torch.randint(0, 2, (32,))]
        made = network(torch.randn(2, 32, 192)).view(2, 32, SIDE, SIDE, 3)
        mover.zero_grad()
        energy_score(made, real, torch.ones(32)).mean().backward()
        mover.step()
    made = network(torch.randn(100, 192)).view(100, SIDE, SIDE, 3).detach()
    apart = torch.stack([distance(made, one.expand_as(made)) for one in (LEFT, RIGHT)])
    between = float(distance(LEFT[None], RIGHT[None]))
    assert (apart.min(0).values < 0.35 * between).float().mean() > 0.85  # most are one of the two
    assert 0.3 < (apart[0] < apart[1]).float().mean() < 0.7  # and neither is left out


def test_the_score_moves_the_student_and_takes_a_quarter_of_the_frames_from_lower_levels() -> None:
    shape = ModelConfig(
        3, 16, 24, 8, margin=1, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4
    )
    model, generator, n = WorldModel(shape), torch.Generator().manual_seed(0), 8
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    draw = [torch.randn(n, shape.tokens, size, generator=generator) for size in (shape.dim, shape.view_dim)]
    real, *noise = torch.randn(3, n, shape.tokens, shape.patch_dim, generator=generator)
    action = torch.randint(0, 3, (n,), generator=generator)
    method = EnergyScore(model, model, Computer(torch.float32, False), own_level=0.5)
    seen: list[Tensor] = []
    modulations = model.decoder.modulations

    def listening(t: Tensor, action: Tensor) -> list[Tensor]:
        seen.append(t)
        return modulations(t, action)

    model.decoder.modulations = listening  # type: ignore[method-assign]
    u = (torch.arange(n) + 0.5) / n
    moments = Moments(0, *draw, action, real, noise, [u, u], torch.ones(n))
    ((who, loss),) = list(method.losses(moments))
    loss.backward()
    assert who == "student" and model.decoder.blocks[0].first.weight.grad.abs().sum() > 0
    (t,) = seen
    assert (t == 1).sum() == 6 and (t[:2] >= 0.5).all() and (t[:2] < 1).all()


def test_one_member_has_no_distance() -> None:
    with pytest.raises(RunError, match="members must be at least 2"):
        DistillConfig(method="energy", members=1)
