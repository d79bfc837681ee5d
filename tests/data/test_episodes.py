"""Episodes on disk: what is written comes back, and what is not an episode is named."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.actions import ActionTable
from worldsim.data.episodes import (
    INDEX,
    Dataset,
    Episode,
    EpisodeInfo,
    read_episode,
    write_episode,
    write_index,
)
from worldsim.errors import DataError

ACTIONS = ActionTable.numbered(["NOOP", "UP"])


def _episode(steps: int = 12, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    over = np.arange(steps) == steps - 1
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, 8, 10, 3), np.uint8),
        actions=rng.integers(0, 2, steps).astype(np.uint8),
        rewards=rng.standard_normal(steps).astype(np.float32),
        terminated=over,
        truncated=np.zeros(steps, bool),
        behaviour=np.zeros(steps, np.uint8),
        state={"ball_x": np.where(np.arange(steps + 1) % 3, 1.5, np.nan).astype(np.float32)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three episodes."""
    infos = []
    for index in range(3):
        episode = _episode(seed=index)
        file = f"episode_{index:06d}.npz"
        digest = write_episode(tmp_path / file, episode)
        infos.append(EpisodeInfo(index, file, 12, index, index == 1, 0.0, 0, 0, "random", digest))
    write_index(tmp_path, {"source": {"name": "toy"}}, ACTIONS, ("random",), infos[::-1])
    return tmp_path


def _same(one: Episode, two: Episode) -> None:
    for name in ("frames", "actions", "rewards", "terminated", "truncated", "behaviour"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert getattr(one, name).dtype == getattr(two, name).dtype
    assert one.state.keys() == two.state.keys()
    for name, column in one.state.items():
        np.testing.assert_array_equal(column, two.state[name])


def test_what_is_written_comes_back(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert [info.index for info in dataset.episodes] == [0, 1, 2]
    assert dataset.actions == ACTIONS and dataset.config["source"]["name"] == "toy"
    for info in dataset.episodes:
        _same(dataset.load(info), _episode(seed=info.seed))


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that give way to each other as often as they can, in the middle of parsing too."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()

    def give_way(*_: Any) -> None:
        sum(range(50))

    gc.callbacks.append(give_way)
    gc.set_threshold(3)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.callbacks.remove(give_way)


def test_episodes_are_read_by_many_threads_at_once(folder: Path, restless: None) -> None:
    """With ``np.load``, Python 3.11's parser was now and then at work in two threads at once: a SystemError."""
    paths = sorted(folder.glob("*.npz")) * 80
    with ThreadPoolExecutor(8) as readers:
        assert len(list(readers.map(read_episode, paths))) == len(paths)


def test_held_out_episodes_are_apart(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert [info.index for info in dataset.held_out] == [1]
    assert [info.index for info in dataset.train] == [0, 2]


def test_the_same_episode_is_the_same_bytes(tmp_path: Path) -> None:
    digests = [write_episode(tmp_path / name, _episode()) for name in ("a.npz", "b.npz")]
    assert digests[0] == digests[1]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)


def _text(path: Path) -> None:
    path.write_text("hello")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"frames": 1}))


def _object_array(path: Path) -> None:
    np.savez(path, frames=np.array([{"a": 1}], dtype=object))


def _other_arrays(path: Path) -> None:
    np.savez(path, x=np.zeros(3))


def _wrong_dtype(path: Path) -> None:
    good = _episode()
    arrays = {name: getattr(good, name) for name in ("actions", "rewards", "terminated", "truncated", "behaviour")}
    np.savez(path, frames=good.frames.astype(np.float32), **arrays)


def _one_frame_short(path: Path) -> None:
    good = _episode()
    write_episode(path, replace(good, frames=good.frames[:-1]))


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [_truncate, _half, _flip, _text, _empty, _single_array, _pickled, _object_array, _other_arrays, _wrong_dtype,
     _one_frame_short, _directory, Path.unlink],
)  # fmt: skip
def test_a_spoilt_file_is_named_with_the_fix_and_the_others_stay_usable(folder: Path, spoil: Any) -> None:
    dataset = Dataset.open(folder)
    bad = folder / dataset.episodes[1].file
    spoil(bad)
    with pytest.raises(DataError, match=f"{bad.name}.*worldsim collect") as caught:
        dataset.load(dataset.episodes[1])
    assert "\n" not in str(caught.value)
    for index in (0, 2):
        dataset.load(dataset.episodes[index])
    with pytest.warns(UserWarning, match=bad.name):
        rest = Dataset.open(folder, skip_bad=True)
    assert [info.index for info in rest.episodes] == [0, 2]


def test_an_episode_of_another_length_or_action_set_is_refused(folder: Path) -> None:
    dataset = Dataset.open(folder)
    with pytest.raises(DataError, match="holds 12 steps, but the index says 13"):
        dataset.load(replace(dataset.episodes[0], steps=13))
    fewer = replace(dataset, actions=ActionTable.numbered(["NOOP"]))
    with pytest.raises(DataError, match="holds action 1 of 1"):
        fewer.load(dataset.episodes[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truncated or not an index"),
        ('{"format": "worldsim-epi', "truncated or not an index"),
        ("[1, 2]", "not an index of recorded episodes"),
        ('{"format": "coco"}', "not an index of recorded episodes"),
        ('{"format": "worldsim-episodes", "version": 99}', "version 99, this worldsim reads 1"),
        ('{"format": "worldsim-episodes", "version": 1}', "damaged"),
    ],
)
def test_a_bad_index_is_named(folder: Path, text: str, message: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(folder)
    assert str(folder / INDEX) in str(caught.value) and "\n" not in str(caught.value)


def test_an_index_that_points_out_of_its_folder_is_refused(folder: Path) -> None:
    data = json.loads((folder / INDEX).read_text())
    data["episodes"][0]["file"] = "../secret.npz"
    (folder / INDEX).write_text(json.dumps(data))
    with pytest.raises(DataError, match="outside the folder"):
        Dataset.open(folder)


def test_no_data_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="worldsim collect"):
        Dataset.open(tmp_path / "nothing")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_leaves_the_index_and_the_episodes_as_they_were(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in (INDEX, "episode_000000.npz"):
        (folder / f".{name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(DataError, match=f"{INDEX}.*No space left.*free some space"):
        write_index(folder, {}, ACTIONS, (), [])
    with pytest.raises(DataError, match="episode_000000.npz.*free some space"):
        write_episode(folder / "episode_000000.npz", _episode(seed=9))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write .*check the folder"):
        write_episode(tmp_path / "file" / "episode_000000.npz", _episode())


def test_a_copied_data_set_is_the_same(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    there = tmp_path_factory.mktemp("copy") / "pong"
    shutil.copytree(folder, there)
    dataset = Dataset.open(there, skip_bad=True)
    assert len(dataset.episodes) == 3
    _same(read_episode(there / dataset.episodes[2].file), _episode(seed=2))
