"""A run learns, survives being killed, says what it is, and trains the same in parts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.training.runs import arguments, config, same, state
from worldsim.checkpoint import load_checkpoint
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.settings import defaults
from worldsim.training.kept import MomentsConfig
from worldsim.training.parallel import Ranks
from worldsim.training.pretrain import main
from worldsim.training.pretrain_config import PretrainConfig
from worldsim.training.trainer import Trainer
from worldsim.world import load_world


def test_a_run_folder_explains_itself(straight: Path) -> None:
    names = {path.name for path in straight.iterdir()}
    assert {
        "README.md",
        "settings.json",
        "checkpoint.safetensors",
        "tensorboard",
        "samples",
        "world",
    } <= names
    assert json.loads((straight / "settings.json").read_text())["batch"] == 2
    assert list((straight / "samples").glob("*.png"))
    card = (straight / "world" / "CARD.md").read_text()
    assert "| 6 steps of the decoder alone, of 8 frames each, from single moments; then 12 steps of 2 clips " in card
    assert "; then 5 steps of the decoder alone, of 8 frames each; then 3 steps of the outcome heads alone |" in card
    assert "worldsim train world=pong steps=12 batch=2 model.patch=16" in card
    assert "loss.draws=2 loss.noise_shift=5.0" in card
    assert "optimizer.warmup=2" in card and "moments.steps=6" in card and "device" not in card


def test_the_library_trains_as_the_command_does_where_nothing_is_said() -> None:
    said = defaults("train")
    usual = json.loads(json.dumps(asdict(PretrainConfig("pong", moments=MomentsConfig()))))
    for part in ("loss", "optimizer", "moments", "replay", "outcomes", "report"):
        assert {key: usual[part][key] for key in said[part]} == said[part], part


def test_the_exported_world_is_the_averaged_weights_and_can_be_loaded(straight: Path) -> None:
    world = load_world(straight / "world")
    average = {
        name.removeprefix("ema."): value for name, value in state(straight).items() if name.startswith("ema.")
    }
    for name, value in world.model.state_dict().items():
        assert torch.equal(value, average[name].to(torch.bfloat16).float()), name
    assert len(world.episode_starts) >= 1


def test_a_run_that_trains_nothing_gives_its_first_world_another_window(
    pong_data: Dataset, straight: Path, tmp_path: Path
) -> None:
    nothing = "steps=0", "replay.steps=0", "outcomes.steps=0", f"init={straight / 'world'}", "model.window=2"
    assert main(arguments(pong_data, tmp_path / "same", *nothing)) in (0, None)
    more = "model.reward_ages=7", "sampling_shift=0.5"
    assert main(arguments(pong_data, tmp_path / "told", *nothing, *more)) in (0, None)
    before, after = load_world(straight / "world"), load_world(tmp_path / "same" / "world")
    assert before.config.model.window != after.config.model.window == 2
    for name, value in after.model.state_dict().items():
        assert torch.equal(value, before.model.state_dict()[name]) or "age" in name, name
    assert {len(start.frames) for start in after.starts} == {2}
    told = load_world(tmp_path / "told" / "world")
    assert (told.config.shift, after.config.shift) == (0.5, 1.0)
    assert {len(start.frames) for start in told.starts} == {7}, "what no reward tells, a game's first frames show"


def test_what_a_world_will_begin_with_is_looked_for_before_training(
    pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = max(info.steps for info in (*pong_data.held_out, *pong_data.train))
    assert main(arguments(pong_data, tmp_path / "run", f"model.reward_ages={longest + 1}")) == 2
    error = capsys.readouterr().err
    assert f"no episode has the {longest + 1} frames of a start" in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_killed_run_resumes_to_the_same_bytes(pong_data: Dataset, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "worldsim",
        "train",
        *arguments(pong_data, run, "steps=12", "report.save_seconds=0"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    stopped_at = load_checkpoint(run / "checkpoint.safetensors")[1]["step"]
    assert 1 <= stopped_at <= 26
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert same(state(run), state(straight))


@pytest.fixture(scope="module")
def pair(pong_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by two processes, which draw other kept frames than one does."""
    run = tmp_path_factory.mktemp("pair") / "two"
    torchrun(29617, arguments(pong_data, run, "steps=12"))
    return run


def torchrun(port: int, told: list[str]) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
        f"--master-port={port}", "-m", "worldsim", "train", *told,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_two_processes_train_as_one(pong_data: Dataset, tmp_path: Path) -> None:
    clips = "moments=null", "steps=12", "replay.steps=0", "outcomes.steps=0"
    assert main(arguments(pong_data, tmp_path / "one", *clips)) in (0, None)
    torchrun(29620, arguments(pong_data, tmp_path / "two", *clips))
    one, two = scalars(tmp_path / "one"), scalars(tmp_path / "two")
    # Before any update the losses agree to rounding; afterwards Muon's bfloat16 amplifies it a little. The last step
    # shows own frames in one clip of the two, whichever process has it.
    assert two["loss/denoise", 1] == pytest.approx(one["loss/denoise", 1], rel=1e-6)
    assert two["loss/denoise", 12] == pytest.approx(one["loss/denoise", 12], rel=2e-3)


def test_two_killed_processes_resume_to_the_same_bytes(pong_data: Dataset, pair: Path, tmp_path: Path) -> None:
    """Each of them has clips that show own frames, and contexts that it has kept."""
    run, checkpoint = tmp_path / "killed", tmp_path / "killed" / "checkpoint.safetensors"

    def together(port: int) -> list[subprocess.Popen[str]]:
        """As torchrun begins them, whose workers outlive it when it is killed."""
        told = arguments(pong_data, run, "steps=12", "report.save_seconds=0")
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [
            subprocess.Popen(
                [sys.executable, "-m", "worldsim", "train", *told],
                env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip

    processes, deadline, step = together(29618), time.monotonic() + 240, 0
    while step < 12:
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline, "no checkpoint"
        step = load_checkpoint(checkpoint)[1]["step"] if checkpoint.exists() else 0
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.communicate()
    step = load_checkpoint(checkpoint)[1]["step"]
    assert 12 <= step < 26, "it had ended"
    assert (run / f"checkpoint.1-{step}.safetensors").exists()
    for process in together(29619):
        _, said = process.communicate()
        assert process.returncode == 0, said[-2000:]
    assert same(state(run), state(pair))
    assert {path.name for path in run.glob("checkpoint.*")} == {path.name for path in pair.glob("checkpoint.*")}


def scalars(run: Path) -> dict[tuple[str, int], float]:
    """TensorBoard scalars of a run by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()  # type: ignore[no-untyped-call]
    return {
        (name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)
    }


def test_losses_of_the_parts_average_to_the_loss_of_the_whole(pong_data: Dataset, tmp_path: Path) -> None:
    from worldsim.model.world_model import WorldModel, init_weights
    from worldsim.training.batches import make_batch
    from worldsim.training.loss import pretrain_loss

    trainer = Trainer(config(pong_data, tmp_path / "run"), Ranks())
    model = init_weights(WorldModel(trainer.shape), 0)

    def loss(places: range) -> torch.Tensor:
        return pretrain_loss(
            model,
            make_batch(trainer.clips, trainer.shape, trainer.config.loss, 0, 3, places),
            trainer.config.loss,
        )[0]

    halves = [loss(Ranks(rank, 2).places(4)) for rank in range(2)]
    assert torch.allclose((halves[0] + halves[1]) / 2, loss(range(4)), rtol=1e-5)
    with pytest.raises(RunError, match="does not divide"):
        Ranks(0, 3).places(4)


def test_a_second_ctrl_c_does_not_wait_for_the_end_of_a_step(pong_data: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=1), Ranks())
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.stop_on_signals()
        os.kill(os.getpid(), signal.SIGINT)
        assert trainer._stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)  # a signal is handled between two instructions, perhaps not the next two
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_other_settings_in_the_same_run_are_refused(
    pong_data: Dataset, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (straight / "checkpoint.safetensors").read_bytes()
    assert main(arguments(pong_data, straight, "steps=12", "loss.draws=3")) == 2
    assert "loss.draws was 2, now 3" in capsys.readouterr().err
    assert (straight / "checkpoint.safetensors").read_bytes() == before


def test_a_run_that_is_older_than_a_setting_goes_on(
    pong_data: Dataset, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "older"
    shutil.copytree(straight, run)
    told = json.loads((run / "settings.json").read_text())
    assert told["model"].pop("shortcut", 0) is None
    (run / "settings.json").write_text(json.dumps(told))
    assert main(arguments(pong_data, run, "steps=12")) in (0, None)
    told["model"]["dim"] = 64
    (run / "settings.json").write_text(json.dumps(told))
    assert main(arguments(pong_data, run, "steps=12")) == 2
    assert "model.dim was 64, now 32" in capsys.readouterr().err


def test_training_lowers_the_loss(straight: Path, pong_data: Dataset, tmp_path: Path) -> None:
    from worldsim.data.clips import ClipStore
    from worldsim.training.progress import held_out_error

    trainer = Trainer(config(pong_data, straight), Ranks())
    held_out = ClipStore(pong_data, pong_data.held_out, 8)
    fresh = Trainer(config(pong_data, tmp_path / "fresh"), Ranks())
    assert (
        held_out_error(trainer.model, held_out, 4)["all"]
        < 0.8 * held_out_error(fresh.model, held_out, 4)["all"]
    )
