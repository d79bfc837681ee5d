"""A run learns, survives being killed, says what it is, and trains the same in parts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldsim.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.training.export import export
from worldsim.training.kept import MomentsConfig, ReplayConfig
from worldsim.training.loss import LossConfig
from worldsim.training.optimizer import OptimizerConfig, schedule, split_parameters
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.parallel import Ranks
from worldsim.training.pretrain import main
from worldsim.training.pretrain_config import PretrainConfig
from worldsim.training.run import Run
from worldsim.training.trainer import Trainer
from worldsim.world import load_world

TINY = [
    "batch=2", "compile=false", "dtype=float32", "threads=1", "model.patch=16", "model.dim=32", "model.heads=2",
    "model.encoder_layers=1", "model.decoder_layers=1", "model.decoder_width=8", "model.window=4",
    "report.held_out_clips=1", "report.grid_rows=1", "report.grid_ticks=[1,4]", "optimizer.warmup=2",
    "loss.own_share=0.67", "loss.own_pool=2", "loss.own_ticks=3",
    "moments.steps=6", "moments.frames=8", "moments.clips=6", "moments.first=2", "moments.every=2",
    "moments.own_after=0.5", "moments.own_share=0.5",
    "replay.steps=5", "replay.frames=8", "replay.clips=6", "replay.first=2",
    "outcomes.steps=3", "outcomes.batch=4", "outcomes.clips=8",
]  # fmt: skip


def arguments(data: Dataset, run: Path, *more: str) -> list[str]:
    return ["world=pong", f"data={data.folder}", f"run={run}", *TINY, *more]


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def straight(pong_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 + 12 + 5 + 3 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("run") / "straight"
    assert main(arguments(pong_data, run, "steps=12")) in (0, None)
    return run


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
    assert "optimizer.warmup=2" in card and "moments.steps=6" in card and "device" not in card


def test_the_exported_world_is_the_averaged_weights_and_can_be_loaded(straight: Path) -> None:
    world = load_world(straight / "world")
    average = {
        name.removeprefix("ema."): value for name, value in state(straight).items() if name.startswith("ema.")
    }
    for name, value in world.model.state_dict().items():
        assert torch.equal(value, average[name].to(torch.bfloat16).float()), name
    assert len(world.episode_starts) >= 1


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
    assert result.returncode == 0, result.stderr[-2000:]


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


SHAPE = {"patch": 16, "history": 4, "extrapolated": 0, "dim": 32, "heads": 2, "encoder_layers": 1, "window": 4}
SHAPE |= {"decoder_layers": 1, "decoder_width": 8}


def config(data: Dataset, run: Path, **more: object) -> PretrainConfig:
    fields = {
        "world": "pong",
        "data": data.folder,
        "run": run,
        "batch": 2,
        "compile": False,
        "dtype": "float32",
        "model": SHAPE,
    }
    fields |= {"optimizer": OptimizerConfig(warmup=2), "outcomes": OutcomesConfig(3, 4, 8)}
    fields |= {"replay": ReplayConfig(steps=0)}
    fields |= {"loss": LossConfig(own_share=0.67, own_pool=2, own_ticks=3)}
    return PretrainConfig(**(fields | more))  # type: ignore[arg-type]


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


def test_a_truncated_checkpoint_is_named(tmp_path: Path, straight: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes((straight / "checkpoint.safetensors").read_bytes()[:-100])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors is not a whole"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"w": torch.ones(3)}, {"step": 1})
    script = (
        "import resource, torch, pathlib, signal\n"
        "from worldsim.checkpoint import save_checkpoint\n"
        "from worldsim.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        f"    save_checkpoint(pathlib.Path({str(path)!r}), {{'w': torch.zeros(10000)}}, {{'step': 2}})\n"
        "except RunError as error:\n"
        "    print('refused:', error)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "refused: cannot save" in output
    assert load_checkpoint(path)[1]["step"] == 1
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_weights_that_became_nan_are_never_saved(pong_data: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(config(pong_data, tmp_path / "run"), Ranks())
    trainer.save()
    with torch.no_grad():
        trainer.model.decoder.out.weight[0] = float("nan")
    with pytest.raises(RunError, match="NaN"):
        trainer.save()
    assert torch.isfinite(state(tmp_path / "run")["model.decoder.out.weight"]).all()


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


def test_the_last_steps_train_the_outcome_heads_and_nothing_else(pong_data: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=2), Ranks())
    trainer.train()
    before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    trainer.finish_outcomes()
    assert trainer.finished and trainer.step == 5
    for name, value in trainer.ema.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("heads."), name


def test_the_decoder_begins_on_moments_and_the_rest_of_the_model_waits(pong_data: Dataset, tmp_path: Path) -> None:
    how = MomentsConfig(steps=8, frames=16, clips=8, first=4, every=2, own_share=0.5)
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=2, moments=how), Ranks())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.begin_decoder()
    assert trainer.step == 8
    after = trainer.model.state_dict()
    waits = ("encoder.blocks.", "encoder.patches.", "heads.")
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith(waits), name
    # The whole model's contexts are those that the decoder has learned from, whatever it sees and remembers.
    with torch.no_grad():
        patches = torch.rand(2, 5, trainer.shape.tokens, trainer.shape.patch_dim)
        actions = torch.randint(0, 6, (2, 4))
        previous = trainer.model.previous_actions(actions)
        whole = trainer.ema.encode(trainer.ema.views(patches), previous, torch.zeros_like(previous))
        torch.testing.assert_close(whole[:, 2], trainer.ema.encoder.blind(previous[:, 2]))
    trainer.train()
    assert trainer.step == 10
    encoder = trainer.model.encoder
    assert encoder.patches.weight.any() and all(block.mlp.down.weight.any() for block in encoder.blocks)


def test_a_run_that_starts_from_a_world_has_no_moments(pong_data: Dataset, straight: Path, tmp_path: Path) -> None:
    export(Run(straight), tmp_path / "first")
    how = MomentsConfig(steps=8)
    trainer = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, moments=how), Ranks())
    trainer.begin_decoder()
    assert trainer.step == 0 and trainer.model.encoder.patches.weight.any()


def test_a_run_can_start_from_a_world_and_says_so(pong_data: Dataset, straight: Path, tmp_path: Path) -> None:
    first = Trainer(config(pong_data, straight), Ranks())
    export(Run(straight), tmp_path / "first")
    parent = load_world(str(tmp_path / "first"))
    trainer = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=2), Ranks())
    for name, value in first.ema.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value.bfloat16().float()), name
    trainer.train()
    resumed = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=2), Ranks())
    assert resumed.step == 2 and not torch.equal(resumed.model.decoder.out.weight, first.ema.decoder.out.weight)
    card = export(Run(tmp_path / "run"), tmp_path / "second").card
    assert f"init={tmp_path / 'first'}" in card and parent.fingerprint[:16] in card
    assert card.count("worldsim collect") == 2, "both worlds' commands are there"
    with pytest.raises(RunError, match="has model.dim=32"):
        Trainer(config(pong_data, tmp_path / "other", init=str(tmp_path / "first"), model=SHAPE | {"dim": 64}), Ranks())


def test_muon_takes_the_blocks_matrices_only(pong_data: Dataset, tmp_path: Path) -> None:
    muon, adam = split_parameters(Trainer(config(pong_data, tmp_path / "run"), Ranks()).model)
    assert all(parameter.ndim == 2 and ".blocks." in name for name, parameter in muon)
    assert {"encoder.position", "decoder.out.weight", "encoder.blocks.0.time.age_bias"} <= {
        name for name, _ in adam
    }
    assert all(any(part in name for name, _ in muon) for part in ("qkv", "mlp.up", "decoder.blocks.0.first"))


def test_the_schedule_warms_up_holds_and_falls_to_zero() -> None:
    config = OptimizerConfig(warmup=10, decay=0.5)
    assert schedule(0, 100, config) == pytest.approx(0.1)
    assert schedule(30, 100, config) == 1
    assert schedule(75, 100, config) == pytest.approx(0.5)
    assert schedule(100, 100, config) == 0


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["file"]
