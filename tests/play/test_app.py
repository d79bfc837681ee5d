"""The command: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from worldsim.engine.session import Session
from worldsim.play.app import find_start, main
from worldsim.world import load_world

ROOT = Path(__file__).parents[2]
QUICK = ("headless=true", "unpaced=true", "frames=20", "seed=3", "size=96", "threads=1", "dtype=float32")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_headless_game_prints_its_latencies(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"world={tiny_folder}", *QUICK]) == 0
    out = capsys.readouterr().out
    for word in (
        "tiny: 20 ticks unpaced",
        "decisions/s",
        "p50",
        "p99",
        "decode",
        "present",
        "slack",
        "float32",
        "torch",
    ):
        assert word in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_the_report_holds_every_sample_and_says_what_is_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    assert main([f"world={tiny_folder}", *QUICK, "steps=3", "keys=taps", "report=out/latency.json"]) == 0
    report = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert report["steps"] == 3 and report["seed"] == 3 and report["ticks"] == 20 and report["fps"] is None
    assert report["machine"]["torch_threads"] == 1 and "keyboard" in report["excluded"]
    for name in ("response", "decode", "encode", "tick"):
        row, samples = report["milliseconds"][name], report["samples"][name]
        assert len(samples) == row["samples"] == 20
        assert row["p50"] <= row["p95"] <= row["p99"] <= row["max"] == pytest.approx(max(samples), abs=1e-3)


def test_a_recorded_game_plays_again_to_the_same_pictures(tiny_folder: Path, tmp_path: Path) -> None:
    shots = []
    keys = "random"
    for turn in range(2):
        films = [f"record=film{turn}.gif", f"record_keys=keys{turn}.jsonl", "hud=false"]
        assert main([f"world={tiny_folder}", *QUICK, f"keys={keys}", *films]) == 0
        shots.append((tmp_path / f"film{turn}.gif").read_bytes())
        keys = str(tmp_path / "keys0.jsonl")
    assert shots[0] == shots[1]
    assert (tmp_path / "keys0.jsonl").read_bytes() == (tmp_path / "keys1.jsonl").read_bytes()


def test_a_screenshot_shows_the_picture_that_the_keys_made(tiny_folder: Path, tmp_path: Path) -> None:
    keys = [(2, "left", True), (4, "left", False), (4, "f12", True)]
    lines = [json.dumps({"tick": tick, "key": key, "down": down}) for tick, key, down in keys]
    (tmp_path / "keys.jsonl").write_text("\n".join(lines))
    assert main([f"world={tiny_folder}", *QUICK, "keys=keys.jsonl", "hud=false"]) == 0
    session = Session(load_world(tiny_folder), seed=3, dtype="float32")
    session.reset()
    frames = [session.step([action])[0][0] for action in (0, 0, 1, 1)]
    (file,) = (tmp_path / "screenshots").iterdir()
    np.testing.assert_array_equal(cv2.imread(str(file))[..., ::-1], frames[-1].repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("world=pnog", "unknown world 'pnog'"),
        ("steps=0", "steps is 0, it must be from 1 to 64"),
        ("fps=0", "fps is 0"),
        ("size=big", "size is 'big', it must be a whole number"),
        ("keys=nothing", "no keys called 'nothing'"),
        ("record=film.avi", "must end in .mp4 or .gif"),
        ("start=nowhere", "unknown start 'nowhere'"),
        ("start=99", "start 99 is out of range"),
        ("dtype=int4", "dtype 'int4' is not supported"),
        ("device=abacus", "device 'abacus' cannot be used"),
        ("wrold=pong", "unknown key 'wrold' (did you mean 'world'?)"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert main([f"world={tiny_folder}", *QUICK, setting]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_an_unknown_key_in_a_file_is_one_line(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys.jsonl").write_text('{"tick": 1, "key": "anykey", "down": true}')
    assert main([f"world={tiny_folder}", *QUICK, "keys=keys.jsonl"]) == 2
    assert "unknown key 'anykey'" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":4711"}])
def test_no_display_is_one_line_that_says_how_to_go_without(
    tiny_folder: Path, display: dict[str, str]
) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | display
    command = [sys.executable, str(ROOT / "play.py"), f"world={tiny_folder}", "frames=3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("worldsim play: no ") and done.stderr.count("\n") == 1
    assert "python play.py headless=true" in done.stderr


def test_a_start_of_digits_is_a_number() -> None:
    assert [find_start(text) for text in (None, "3", "episode 3")] == [None, 3, "episode 3"]
