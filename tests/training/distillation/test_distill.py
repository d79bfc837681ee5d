"""Distillation: what its losses are, and that a run of it is a run like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.distillation.moment import moment, shaken
from tests.training.kept import LOSS, TINY
from worldsim.checkpoint import part
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.sampler import levels, sample
from worldsim.engine.session import Session
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.computing import Computer
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.distillation.distill import Distiller, main
from worldsim.training.distillation.dmd import DMD, exit_frames, matching_loss
from worldsim.training.distillation.methods import METHODS, DistillConfig
from worldsim.training.distillation.self_forcing import RollOuts
from worldsim.training.distillation.sources import Source, drawn
from worldsim.training.distillation.teaching import Moments
from worldsim.training.kept import KeptConfig
from worldsim.training.objective import OwnPool
from worldsim.training.parallel import Ranks
from worldsim.training.rehearsal import Rehearsal
from worldsim.world import World, load_world


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_last_exit_is_what_the_sampler_makes(steps: int) -> None:
    model, (context, last, action, noise) = shaken(), moment()

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        return model.decode(x, torch.full((len(x),), t), context, last, action)

    at = levels(steps)
    with torch.no_grad():
        expected = sample(denoise, noise, at)
    made = exit_frames(model.decoder, context, last, action, noise, at[:-1])
    torch.testing.assert_close(made, expected)
    made.sum().backward()
    assert model.decoder.blocks[0].first.weight.grad.abs().sum() > 0


def test_only_the_exit_step_has_a_gradient() -> None:
    model, (context, last, action, noise) = shaken(), moment()
    weights = list(model.decoder.parameters())
    made = exit_frames(model.decoder, context, last, action, noise, (1.0, 0.5))
    found = torch.autograd.grad(made.square().sum(), weights)
    with torch.no_grad():
        first = model.decode(noise, torch.ones(5), context, last, action)
        x = first + 0.5 * (noise - first)
    alone = model.decode(x, torch.full((5,), 0.5), context, last, action)
    for mine, theirs in zip(found, torch.autograd.grad(alone.square().sum(), weights), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_frames_move_from_what_the_critic_sees_to_what_the_teacher_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    made, real, fake = (torch.randn(3, 6, 12, generator=generator) for _ in range(3))
    made.requires_grad_()
    matching_loss(made, real, fake).sum().backward()
    torch.testing.assert_close(made.grad, (fake - real) / made[0].numel())


def test_a_critic_that_agrees_with_the_teacher_moves_nothing_and_one_that_differs_does() -> None:
    model, other, (context, last, action, noise) = shaken(), shaken(5), moment()
    t = torch.full((5,), 0.6)
    for critic, still in ((model.decoder, True), (other.decoder, False)):
        method = DMD(model, other, Computer(torch.float32, False), at=levels(2))
        method.networks["critic"].load_state_dict(critic.state_dict())
        made = method.make(1, context, last, action, noise)
        here = Moments(0, context, last, action, noise, [noise] * 2, [t] * 2, torch.ones(5))
        loss = matching_loss(made, *method.judged(made.detach(), here, 1)).sum()
        (gradient,) = torch.autograd.grad(loss, made)
        assert (gradient.abs().max() < 1e-7) == still


SQUARES = ["replay.crop=2"]  # of frames that are kept


@pytest.mark.parametrize(
    ("method", "more"),
    [*((method, []) for method in METHODS), *((method, SQUARES) for method in ("dmd", "energy", "shortcut"))],
)
def test_a_run_distils_the_decoder_and_nothing_else(
    method: str, more: list[str], teacher: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert main(arguments(tmp_path / "run", f"method={method}", *more)) in (0, None)
    before, after = load_world(teacher), load_world(tmp_path / "run" / "world")
    known, changed = before.model.state_dict(), []
    for name, weight in after.model.state_dict().items():
        if name not in known or not torch.equal(weight, known[name]):
            changed.append(name)
    assert all(name.startswith("decoder.") for name in changed)
    assert ("decoder.size.weight" in changed) == (method == "shortcut")
    assert any("blocks.0.first" in name for name in changed)
    assert after.name == "pong" and after.config.steps == before.config.steps
    assert "worldsim distill world=" in after.card and "worldsim train world=pong" in after.card
    assert before.fingerprint[:16] in after.card
    assert list((tmp_path / "run" / "samples").glob("*.png"))


@pytest.mark.parametrize(
    ("method", "kept"), [("dmd", 0), ("dmd", 6), ("self_forcing", 0), ("ode", 6), ("consistency", 6), ("shortcut", 6)]
)
def test_it_goes_on_to_the_same_bytes(
    method: str,
    kept: int,
    teacher: Path,
    pong_data: Dataset,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    more = [f"method={method}", "trajectories=2", "teacher_steps=4", f"replay.clips={kept}"]
    assert main(arguments(tmp_path / "straight", *more)) in (0, None)
    told = {"world": str(teacher), "data": pong_data.folder, "batch": 2, "compile": False, "dtype": "float32"}
    told |= {"lr": 0.01, "critic_lr": 0.01, "method": method, "trajectories": 2, "teacher_steps": 4}
    told |= {"replay": KeptConfig(frames=8, clips=kept, first=2)}
    config = DistillConfig(**told, run=tmp_path / "stopped", steps=6, head_start=2)  # type: ignore[arg-type]
    first = Distiller(config, Ranks())
    keep = first.keep
    first.keep = lambda last: (keep(last), first._ask_to_stop() if first.step == 3 else None, first._stop)[2]  # type: ignore[method-assign, func-returns-value]
    first.train()
    first.save()
    assert first.step == 3
    second = Distiller(config, Ranks())
    assert second.step == 3
    second.train()
    straight, stopped = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("straight", "stopped"))
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_kept_frames_weigh_what_makes_up_for_how_often_they_are_drawn(store: ClipStore) -> None:
    model, computer = init_weights(WorldModel(TINY), 0), Computer(torch.float32, False)
    source = Source(model, model, computer, store, LOSS, 0, range(2), torch.device("cpu"))
    rehearsal = Rehearsal(
        model, DecoderObjective(model, LOSS, torch.float32, False), source.objective(), OwnPool(LOSS), store, LOSS,
        KeptConfig(frames=12, clips=4, first=4), batch=2, seed=0, place=Ranks(), device=torch.device("cpu"),
    )  # fmt: skip
    rehearsal.begin(0, 1, {})
    moments = next(drawn(source, range(1), rehearsal))
    assert moments.worth.shape == (12,) and moments.worth.std() > 0
    torch.testing.assert_close(moments.worth.mean(), torch.tensor(1.0))
    frame = int(moments.worth.argmax())
    alone = torch.nn.functional.one_hot(torch.tensor(frame), 12).float()
    torch.testing.assert_close(moments.mean(alone), moments.worth[frame] / 12)


def test_what_self_forcing_rolls_out_is_what_a_session_plays(make_world: Callable[..., World]) -> None:
    world = make_world(seed=1)
    c, start = world.config.model, world.starts[0]
    ticks, rows = c.window + 2, 2
    actions = torch.randint(0, c.num_actions, (rows, ticks), generator=torch.Generator().manual_seed(0))
    rolls = RollOuts(world.model, Computer(torch.float32, False), at=levels(2), rows=rows)
    generators = [torch.Generator().manual_seed(5 + row) for row in range(rows)]
    noise = [
        torch.stack([torch.randn(c.tokens, c.patch_dim, generator=one) for one in generators]) for _ in range(ticks)
    ]
    frames = torch.from_numpy(start.frames).expand(rows, *start.frames.shape)
    past = torch.from_numpy(start.actions).expand(rows, -1)
    contexts, views = rolls.roll(frames, torch.cat((past, actions), 1), actions, noise)
    session = Session(world, rows, steps=2, seed=5, dtype="float32")
    session.reset(start=start)
    for tick in range(ticks):
        torch.testing.assert_close(contexts[tick], session.context, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(views[tick], torch.from_numpy(session.snapshot().view), rtol=1e-4, atol=1e-4)
        session.step(actions[:, tick].numpy())


def test_impossible_settings_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps=0"]) == 2 and "steps must be at least 1" in capsys.readouterr().err
    assert main(["method=magic"]) == 2 and "it is one of dmd, self_forcing, ode, consistency" in capsys.readouterr().err
    assert main(["method=ode", "sampling_steps=3"]) == 2
    assert "teacher_steps=16 is not a multiple of sampling_steps=3" in capsys.readouterr().err


def test_a_distilled_world_asks_at_the_levels_that_its_student_learned(
    small_world: Callable[..., Path],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shifted = small_world(tmp_path / "teacher", "sampling_shift=0.25")

    def distilled(name: str, *more: str) -> World:
        assert main([*arguments(tmp_path / name), f"world={shifted}", "steps=3", *more]) in (0, None)
        return load_world(tmp_path / name / "world")

    assert load_world(shifted).config.shift == distilled("same").config.shift == 0.25
    other = distilled("other", "sampling_shift=0.5")
    assert other.config.shift == 0.5
    weights = [load_world(tmp_path / name / "world").model.decoder.state_dict() for name in ("same", "other")]
    assert any(not torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    capsys.readouterr()
    assert main([*arguments(tmp_path / "no"), f"world={shifted}", "method=ode", "sampling_shift=1"]) == 2
    assert "give sampling_shift=0.25 and a teacher_steps" in capsys.readouterr().err
    assert main([*arguments(tmp_path / "no"), f"world={shifted}", "method=shortcut"]) == 2
    assert "shortcuts are steps of even sizes: give sampling_shift=1, not 0.25" in capsys.readouterr().err


def test_a_student_may_begin_with_what_another_method_made(
    teacher: Path,
    small_world: Callable[..., Path],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """ODE initialisation: first regression, then distribution matching with the teacher that both have."""
    first, second = tmp_path / "ode", tmp_path / "dmd"
    assert main(arguments(first, "method=ode", "trajectories=2", "teacher_steps=4")) in (0, None)
    told = arguments(second, f"init={first / 'world'}", "lr=1e-12", "critic_lr=1e-12")
    assert main(told) in (0, None)
    begun, after = (load_world(run / "world").model.decoder.state_dict() for run in (first, second))
    for name, weight in after.items():
        torch.testing.assert_close(weight, begun[name], rtol=0, atol=1e-6)
    before = load_world(teacher)
    assert any((weight - before.model.decoder.state_dict()[name]).abs().max() > 1e-4 for name, weight in after.items())
    critic = part(load_file(second / "checkpoint.safetensors"), "critic")
    for name, weight in before.model.decoder.state_dict().items():
        torch.testing.assert_close(critic[name], weight.float(), rtol=0, atol=1e-6)
    card = load_world(second / "world").card
    assert f"`world={teacher.parent.name}/world` was world" in card and f"`init={first.name}/world` was world" in card
    assert str(tmp_path) not in card, "it says nothing of the machine that made it"
    assert "method=ode" in card and card.count("worldsim train world=pong") == 2
    other = small_world(tmp_path / "other", "seed=1")
    capsys.readouterr()
    assert main(arguments(tmp_path / "no", f"init={other}")) == 2
    assert "has another encoder than world=" in capsys.readouterr().err
