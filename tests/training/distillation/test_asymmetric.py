"""A teacher of clips: it judges frames by those after them, and a student of single frames learns from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldsim.engine.sampler import levels
from worldsim.errors import RunError
from worldsim.model.designs import Design
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.asymmetric import AsymmetricDMD, Stretches
from worldsim.training.distillation.distill import main
from worldsim.training.distillation.teaching import Begun, Moments
from worldsim.training.forcing import Forcing
from worldsim.world import load_world


@pytest.fixture(scope="module")
def judge(small_world: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bidirectional teacher for the world that is distilled."""
    return small_world(tmp_path_factory.mktemp("judge") / "run", "design=clip:2")


def test_roll_outs_are_cut_where_the_teacher_parts_them() -> None:
    """Every frame is made once, after the frames that its roll-out had before it."""
    cut = Stretches(reference=3, together=2)
    rows, begun, made = 2, 4, 6
    before = torch.arange(begun).expand(rows, begun) + 100 * torch.arange(rows)[:, None]
    ticks = torch.arange(begun, begun + made)[:, None] + 100 * torch.arange(rows)[None]  # [K, B]
    stretches = cut.cut(before, ticks.flatten())
    expected = [[row * 100 + at + i for i in range(5)] for row in range(rows) for at in (1, 3, 5)]
    assert stretches.tolist() == expected
    assert torch.equal(cut.joined(stretches[:, 3:], rows), ticks.flatten())
    cut.check(begun, made)
    for bad in ((2, 6), (4, 5)):
        with pytest.raises(RunError, match="do not part into 2 after 3"):
            cut.check(*bad)


def test_a_teacher_of_clips_judges_frames_by_those_after_them_too(judge: Path) -> None:
    """And a critic that is the teacher moves nothing; one that differs does."""
    world = load_world(judge)
    shape, forcing = world.config.model, Forcing(Design.parse("clip:2"), world.config.model, "diffusion", 1.0)
    network, student = world.network_on(torch.device("cpu"), torch.float32), WorldModel(shape)
    assert isinstance(network, DiT)
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    method = AsymmetricDMD(student, network, forcing, Computer(torch.float32, False), at=levels(1))
    rows, ticks = 2, 4

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, shape.tokens, shape.patch_dim, generator=generator)

    made, noise, level = draw(rows * ticks), draw(rows * ticks), torch.full((rows * ticks,), 0.7)
    action, nothing = torch.zeros(rows * ticks, dtype=torch.int64), torch.empty(0)
    begun = Begun(draw(rows, 4), torch.zeros(rows, 4, dtype=torch.int64))
    moments = Moments(0, nothing, nothing, action, made, [noise] * 2, [level] * 2, torch.ones(rows * ticks), begun)
    real, fake = method.judged(made, moments, 1)
    assert real.shape == made.shape
    torch.testing.assert_close(real, fake, rtol=0, atol=1e-5)
    later = made.clone()
    later[rows : 2 * rows] += 1  # the second frame of every roll-out's first pair
    parted = ((method.judged(later, moments, 1)[0] - real).abs() > 1e-4).flatten(1).any(1).view(ticks, rows)
    assert parted[:2].all(), "the pair is seen as one"
    with torch.no_grad():
        next(method.networks["critic"].parameters()).add_(0.1)
    real, fake = method.judged(made, moments, 1)
    assert (real - fake).abs().max() > 1e-4 and method.critic_loss(made, moments, 0).requires_grad


def test_a_student_is_distilled_from_a_teacher_of_clips(
    teacher: Path, judge: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(run, "method=self_forcing", f"teacher={judge}")) in (0, None)
    before, after = load_world(teacher).model.state_dict(), load_world(run / "world").model.state_dict()
    parted = {name.partition(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert parted == {"decoder"}
    assert any(name.startswith("critic.blocks") for name in load_file(run / "checkpoint.safetensors"))
    for more, said in (
        (["method=dmd", f"teacher={judge}"], "give method=self_forcing with it"),
        (["method=self_forcing", f"teacher={teacher}"], "name one of design clip"),
        (["method=self_forcing", f"teacher={judge}", "clip=9"], "do not part into 2 after 2"),
    ):
        assert main(arguments(tmp_path / "other", *more)) == 2
        assert said in capsys.readouterr().err
