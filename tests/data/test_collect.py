"""Collecting: time, resume, settings, processes; with the real games, in little."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldsim.agents.mixture import BEHAVIOURS
from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import INDEX, Dataset, write_index
from worldsim.data.playing import held_out
from worldsim.envs.sources import load_source, make_source
from worldsim.errors import DataError
from worldsim.locking import sole_writer

CARTPOLE = CollectConfig(source="CartPole-v1", steps=120, processes=1, seed=4, held_out=0.25)
ROOT = Path(__file__).parents[2]
PONG = CollectConfig(source="pong", steps=500, processes=1, episode_steps=250)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _collect(config: CollectConfig, folder: Path) -> Dataset:
    return collect(replace(config, folder=str(folder)), progress=False)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pygame")
    folder = tmp_path_factory.mktemp("data") / "whole"
    _collect(CARTPOLE, folder)
    return folder


@pytest.fixture(scope="module")
def pong(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pytest.importorskip("ale_py")
    return _collect(PONG, tmp_path_factory.mktemp("data") / "pong")


def test_the_recording_replayed_in_the_game_is_the_same(pong: Dataset) -> None:
    """frames[t], then actions[t], then rewards[t], terminated[t], frames[t + 1]; state belongs to frames."""
    source = make_source(load_source("pong"))
    for info in pong.episodes:
        episode = pong.load(info)
        frame, about = source.reset(seed=info.seed)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(frame, episode.frames[t])
            assert {name: column[t] for name, column in episode.state.items()} == pytest.approx(
                about["state"], nan_ok=True
            )
            frame, reward, terminated, _, about = source.step(int(action))
            assert (reward, terminated) == (episode.rewards[t], episode.terminated[t])
        np.testing.assert_array_equal(frame, episode.frames[-1])
    source.close()


def test_shapes_and_settings_are_recorded(pong: Dataset) -> None:
    assert [info.steps for info in pong.episodes] == [250, 250]
    episode = pong.load(pong.episodes[0])
    assert episode.frames.shape == (251, 80, 80, 3)
    assert set(episode.state) >= {"ball_x", "ball_y", "player_y", "opponent_y"}
    assert pong.actions == load_source("pong").action_table()
    assert pong.config["source"]["id"] == "ALE/Pong-v5"
    assert pong.behaviours == BEHAVIOURS
    assert episode.truncated[-1] and not episode.terminated[-1] and not episode.truncated[:-1].any()


def test_episodes_differ(pong: Dataset) -> None:
    one, two = (pong.load(info) for info in pong.episodes)
    assert (one.actions != two.actions).any()


def test_the_end_of_a_game_is_recorded_as_its_end(cartpole: Path) -> None:
    dataset = Dataset.open(cartpole)
    for info in dataset.episodes:
        episode = dataset.load(info)
        assert episode.terminated[-1] and not episode.terminated[:-1].any() and not episode.truncated.any()
        assert info.total == episode.rewards.sum() == info.steps


def test_the_same_command_again_changes_nothing(cartpole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in cartpole.iterdir()}
    _collect(CARTPOLE, cartpole)
    assert {path.name: path.stat().st_mtime_ns for path in cartpole.iterdir()} == before


def test_continued_and_in_one_go_and_in_two_processes_are_the_same_bytes(cartpole: Path, tmp_path: Path) -> None:
    for steps in (30, 80, 120):
        _collect(replace(CARTPOLE, steps=steps), tmp_path / "parts")
    _collect(replace(CARTPOLE, processes=2), tmp_path / "two")
    assert _files(tmp_path / "parts") == _files(cartpole)
    assert _files(tmp_path / "two") == _files(cartpole)


def test_fewer_steps_than_there_are_lose_nothing(cartpole: Path) -> None:
    before = _files(cartpole)
    _collect(replace(CARTPOLE, steps=10), cartpole)
    assert _files(cartpole) == before


def test_what_is_missing_or_spoilt_is_made_anew(cartpole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    dataset = _collect(CARTPOLE, folder)
    (folder / dataset.episodes[0].file).unlink()
    spoilt = folder / dataset.episodes[1].file
    spoilt.write_bytes(spoilt.read_bytes()[:-9])
    _collect(CARTPOLE, folder)
    assert _files(folder) == _files(cartpole)


def test_a_kill_between_episode_and_index_loses_nothing(cartpole: Path, tmp_path: Path) -> None:
    """What a `kill -9` leaves: files the index does not know, a piece of a file, an index with gaps."""
    folder = tmp_path / "killed"
    dataset = _collect(CARTPOLE, folder)
    some = [info for info in dataset.episodes if info.index != 1][:3]
    write_index(folder, dataset.config, dataset.actions, dataset.behaviours, some)
    (folder / ".episode_000002.npz.123.tmp").write_bytes(b"half")
    (folder / "episode_000099.npz").write_bytes(b"surplus")
    _collect(CARTPOLE, folder)
    assert _files(folder) == _files(cartpole)


def test_a_real_kill_is_survived_and_leaves_no_process(cartpole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kill9"
    settings = ["source=CartPole-v1", "steps=3000", "processes=2", "seed=4", "held_out=0.25", f"folder={folder}"]
    command = [sys.executable, "-m", "worldsim", "collect", *settings]
    # The pipe stays open as long as any process of the recording lives.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("episode_*.npz"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert 4 <= len(list(folder.glob("episode_*.npz"))) < 130
    _collect(CARTPOLE, folder)
    first, wanted = _files(folder), _files(cartpole)
    assert {name: first[name] for name in wanted if name != INDEX} == {
        name: data for name, data in wanted.items() if name != INDEX
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "seed: 4, now 5"),
        ({"held_out": 0.1}, "held_out"),
        ({"source": "FrozenLake-v1"}, "source"),
        ({"episode_steps": 9}, "episode_steps"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(cartpole: Path, change: dict[str, object], message: str) -> None:
    pytest.importorskip("pygame")
    before = _files(cartpole)
    with pytest.raises(DataError, match=f"other settings .*{message}.*another folder") as caught:
        _collect(replace(CARTPOLE, **change), cartpole)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert _files(cartpole) == before


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(DataError, match=r"thesis\.txt.*another folder"):
        _collect(CARTPOLE, tmp_path)
    with pytest.raises(DataError, match="is a file"):
        _collect(CARTPOLE, tmp_path / "thesis.txt")
    assert _files(tmp_path) == {"thesis.txt": b"all my work"}


def test_held_out_episodes_are_marked_by_their_number_alone(cartpole: Path) -> None:
    marks = [held_out(index, 0.06) for index in range(1700)]
    assert np.mean(marks) == pytest.approx(1 / 17)
    assert marks.index(True) == 8
    assert not any(held_out(index, 0.0) for index in range(100))
    for info in Dataset.open(cartpole).episodes:
        assert info.held_out == held_out(info.index, 0.25)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"processes": 0}, {"seed": -1}, {"held_out": 0.6}, {"episode_steps": 0}]
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError):
        replace(CARTPOLE, **change)  # type: ignore[arg-type]


def _run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worldsim", "collect", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "WORLDSIM_HOME": str(home)},
        cwd=ROOT,
    )


def test_the_command_records_and_says_what(cartpole: Path, tmp_path: Path) -> None:
    done = _run("source=CartPole-v1", "steps=120", "processes=1", "seed=4", "held_out=0.25", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps in" in done.stdout and "held out" in done.stdout
    assert "collect cartpole-v1" in done.stderr
    assert _files(tmp_path / "data" / "cartpole-v1") == _files(cartpole)


def test_the_command_says_nothing_else(tmp_path: Path) -> None:
    """ALE's bindings print a page about every game that is still open when a process ends."""
    pytest.importorskip("ale_py")
    done = _run("source=pong", "steps=200", "processes=2", "episode_steps=100", home=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert all("collect pong" in line for line in done.stderr.split("\n") if line.strip()), done.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("source=pongg", "unknown source 'pongg'"),
        ("source=No/Such-v0", "No/Such|Namespace No"),
        ("stepz=3", "stepz"),
        ("steps=many", "steps"),
    ],
)
def test_the_command_refuses_in_one_line(argument: str, message: str, tmp_path: Path) -> None:
    done = _run(argument, home=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert re.search(message, lines[0])


def test_a_folder_that_another_process_records_into_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pytest.importorskip("pygame")
    with sole_writer(folder, DataError), pytest.raises(DataError, match="another process"):
        _collect(CARTPOLE, folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_recording_can_have_frames_of_another_size(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    small = replace(PONG, size=(40, 64), steps=250, folder=str(tmp_path / "small"), seed=1)
    whole = replace(small, size=None, folder=str(tmp_path / "whole"))
    data, usual = (collect(config, progress=False) for config in (small, whole))
    one, other = (d.load(d.episodes[0]) for d in (data, usual))
    assert one.frames.shape == (251, 40, 64, 3) and other.frames.shape == (251, 80, 80, 3)
    assert data.config["source"]["objects"]["player"]["size"] == [1.6, 4.0]
    seen = ~np.isnan(one.state["player_y"])
    np.testing.assert_allclose(
        one.state["player_y"][seen], (other.state["player_y"][seen] + 0.5) / 2 - 0.5, atol=1e-4
    )
