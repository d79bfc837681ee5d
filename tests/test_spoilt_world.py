"""A spoilt world on disk: each fault is named with the fix, and nothing of it is run."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from worldsim.actions import ActionTable
from worldsim.errors import WorldError
from worldsim.world import World, load_world, save_world
from worldsim.world_files import FORMAT, VERSION

FILES = ("config.json", "model.safetensors", "starts.npz")


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def edit_model(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, model=config["model"] | values)


def sign(folder: Path) -> None:
    """Write the checksums anew, so that what is under test is found by what it holds."""

    edit_config(folder, files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[1:]})


def refused(folder: Path, file: str, *words: str) -> None:
    """Loading fails in one line that names the file and the fix, and the folder can be mended."""
    with pytest.raises(WorldError) as error:
        load_world(folder)
    message = str(error.value)
    assert "\n" not in message and str(folder / file) in message, message
    assert any(fix in message for fix in ("save the world again", "save it again", "a world's config.json says")), (
        message
    )
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tiny_folder: Path, name: str) -> None:
    (tiny_folder / name).unlink()
    refused(tiny_folder, name, "missing")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(tiny_folder: Path, name: str, keep: int) -> None:
    data = (tiny_folder / name).read_bytes()
    (tiny_folder / name).write_bytes(data.rstrip()[:keep])
    refused(tiny_folder, name, "truncated")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
@pytest.mark.parametrize("name", FILES[1:])
def test_a_truncated_file_with_the_right_checksum_is_named_too(tiny_folder: Path, name: str, keep: int) -> None:
    data = (tiny_folder / name).read_bytes()
    (tiny_folder / name).write_bytes(data[:keep])
    sign(tiny_folder)
    refused(tiny_folder, name, "truncated")


@pytest.mark.parametrize("name", FILES[1:])
def test_a_flipped_bit_is_found(tiny_folder: Path, name: str) -> None:
    data = bytearray((tiny_folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tiny_folder / name).write_bytes(data)
    refused(tiny_folder, name, "not the one this world was saved with")


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_of_another_world_is_found(
    make_world: Callable[..., World], tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    other = save_world(make_world(seed=8), tmp_path / "other")
    (other / name).replace(tiny_folder / name)
    refused(tiny_folder, name, "not the one this world was saved with")


FOREIGN_CONFIGS = [
    (b"[]", "is not a world's"),
    (b'{"model_type": "llama"}', "is not a world's"),
    (b"\xff\xfe\x00", "JSON"),
    (json.dumps({"format": FORMAT, "version": VERSION + 1}).encode(), f"reads {VERSION}: upgrade worldsim"),
    (json.dumps({"format": FORMAT, "version": VERSION - 1}).encode(), f"reads {VERSION}: train and save"),
    (json.dumps({"format": FORMAT}).encode(), "version None"),
    (json.dumps({"format": FORMAT, "version": VERSION}).encode(), "checksum"),
]


@pytest.mark.parametrize(("data", "word"), FOREIGN_CONFIGS)
def test_a_foreign_config_is_named(tiny_folder: Path, data: bytes, word: str) -> None:
    (tiny_folder / "config.json").write_bytes(data)
    refused(tiny_folder, "config.json", word)


BAD_CONFIGS = [
    ({"fps": 0}, "fps"),
    ({"fps": "fast"}, "fps"),
    ({"fps": float("nan")}, "fps"),
    ({"steps": 65}, "steps"),
    ({"shift": 0.0}, "shift"),
    ({"max_episode_steps": 0}, "max_episode_steps"),
    ({"score_limit": 0}, "score_limit"),
    ({"context_level": 10}, "context_level"),
    ({"_target_": "os.system"}, "_target_"),
    ({"model": None}, "model"),
    ({"actions": None}, "action table"),
    ({"actions": ActionTable.numbered(["A", "B"]).to_json()}, "2 actions for a model of 3"),
]


@pytest.mark.parametrize(("values", "word"), BAD_CONFIGS)
def test_a_config_with_a_bad_value_is_named_with_the_key(
    tiny_folder: Path, values: dict[str, object], word: str
) -> None:
    edit_config(tiny_folder, **values)
    refused(tiny_folder, "config.json", word)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"dim": 33}, "dim"), ({"dim": "wide"}, "dim"), ({"depth": 3}, "depth"), ({"window": 0}, "window")],
)
def test_a_model_that_cannot_be_is_named_with_the_key(tiny_folder: Path, values: dict[str, object], word: str) -> None:
    edit_model(tiny_folder, **values)
    refused(tiny_folder, "config.json", word)


@pytest.mark.parametrize("values", [{"dim": 16}, {"encoder_layers": 1}, {"window": 6}, {"heads": 4}, {"mlp_ratio": 2}])
def test_weights_that_do_not_fit_the_config_are_named(tiny_folder: Path, values: dict[str, object]) -> None:
    edit_model(tiny_folder, **values)
    refused(tiny_folder, "model.safetensors", "does not fit config.json")


@pytest.mark.parametrize(
    "values",
    [{"dim": 2**20}, {"window": 2**40}, {"height": 2**30}, {"encoder_layers": 2**30}, {"decoder_layers": 2**30}],
)
def test_a_config_cannot_make_the_memory_burst(tiny_folder: Path, values: dict[str, object]) -> None:
    edit_model(tiny_folder, **values)
    refused(tiny_folder, "model.safetensors", "smaller than the model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_in_the_weights_is_named(tiny_folder: Path, value: float) -> None:
    weights = load_file(tiny_folder / "model.safetensors")
    weights["decoder.context.weight"][3, 0] = value
    save_file(weights, tiny_folder / "model.safetensors")
    sign(tiny_folder)
    refused(tiny_folder, "model.safetensors", "NaN", "decoder.context.weight")


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_a_worlds_clothes_is_never_loaded(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    (tiny_folder / name).write_bytes(pickle.dumps(Trap(mark)))
    if name != "config.json":
        sign(tiny_folder)
    refused(tiny_folder, name)
    assert not mark.exists()


def test_pickled_objects_within_the_starts_are_never_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with np.load(tiny_folder / "starts.npz") as file:
        arrays = dict(file)
    arrays["names"] = np.array([Trap(mark)] * 3, object)
    np.savez(tiny_folder / "starts.npz", **arrays)
    sign(tiny_folder)
    refused(tiny_folder, "starts.npz")
    assert not mark.exists()


BAD_STARTS = [
    ({"frames": lambda x: x[:, :, :8]}, "resize"),
    ({"frames": lambda x: x.astype(np.float32)}, "uint8"),
    ({"frames": lambda x: x[..., 0]}, "uint8 [N, height, width, 3]"),
    ({"frames": lambda x: x[:2]}, "name of its own"),
    ({"frames": lambda x: x[:, :2]}, "actions must be"),
    ({"actions": lambda x: x + 3}, "is not one of 0 to 2"),
    ({"actions": lambda x: x.astype(np.float32)}, "whole numbers"),
    ({"names": lambda x: np.arange(3)}, "name of its own"),
    ({"names": lambda x: np.array(["a", "a", "b"])}, "name of its own"),
    ({"names": None}, "names"),
    ({"frames": lambda x: x[:0], "actions": lambda x: x[:0], "names": lambda x: x[:0]}, "name of its own"),
    ({"frames": lambda x: np.uint8(3)}, ""),
]


@pytest.mark.parametrize(("changes", "word"), BAD_STARTS)
def test_starts_that_do_not_fit_are_named(tiny_folder: Path, changes: dict[str, Callable | None], word: str) -> None:
    with np.load(tiny_folder / "starts.npz") as file:
        arrays = dict(file)
    for name, change in changes.items():
        array = arrays.pop(name)
        if change is not None:
            arrays[name] = change(array)
    np.savez(tiny_folder / "starts.npz", **arrays)
    sign(tiny_folder)
    refused(tiny_folder, "starts.npz", word)


def test_a_bad_world_is_not_remembered_once_it_is_mended(tiny_folder: Path) -> None:
    weights = (tiny_folder / "model.safetensors").read_bytes()
    (tiny_folder / "model.safetensors").unlink()
    refused(tiny_folder, "model.safetensors")
    (tiny_folder / "model.safetensors").write_bytes(weights)
    load_world(tiny_folder)
