"""What a run saves is whole, finite, and never lost for what comes after it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.training.runs import config, state
from worldsim.checkpoint import load_checkpoint, read_facts, save_checkpoint, write_atomically
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.training.parallel import Ranks
from worldsim.training.trainer import Trainer


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


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """Whole, and with its own facts: a run is exported while it trains on."""
    path = tmp_path / "checkpoint.safetensors"
    over = threading.Event()

    def train() -> None:
        step = 0
        while not over.is_set():
            step += 1
            save_checkpoint(path, {"w": torch.full((1000 + 7 * (step % 5),), float(step))}, {"step": step})

    save_checkpoint(path, {"w": torch.zeros(10)}, {"step": 0})
    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        seen: set[int] = set()
        while len(seen) < 20:  # as often as it takes to meet twenty of them
            tensors, facts = load_checkpoint(path)
            assert bool((tensors["w"] == facts["step"]).all())
            seen.add(read_facts(path)["step"])
            assert trainer.is_alive()
    finally:
        over.set()
        trainer.join()


@pytest.mark.parametrize("payload", [b"", b"12", b"\xff" * 40, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(payload)
    for read in (load_checkpoint, read_facts):
        with pytest.raises(RunError, match=r"checkpoint\.safetensors is not a whole"):
            read(path)
