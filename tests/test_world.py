"""A world on disk: what is written comes back, and nothing else gets in."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from worldsim.actions import ActionTable
from worldsim.errors import MissingExtra, StartError, WorldError
from worldsim.model.config import ModelConfig
from worldsim.world import Start, World, WorldConfig, list_worlds, load_world, new_world, save_world
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


def test_a_world_comes_back_as_it_was_saved(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(
        settings={
            "fps": 25.0,
            "score_limit": 21,
            "max_episode_steps": 99,
            "steps": 3,
            "source": {"id": "A/B"},
        }
    )
    world.card = "# tiny\n\nMade by a test, 5 µs.\n"
    back = load_world(save_world(world, tmp_path / "a" / "tiny"))
    assert back.config == world.config and back.actions == world.actions and back.card == world.card
    for one, two in zip(world.starts, back.starts, strict=True):
        assert one.name == two.name
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.actions, two.actions)
    for name, weight in world.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weight.to(torch.bfloat16).float())
    assert not back.model.training and sorted(path.name for path in (tmp_path / "a" / "tiny").iterdir()) == [
        "CARD.md", "config.json", "model.safetensors", "starts.npz",
    ]  # fmt: skip


def test_the_same_folder_gives_the_same_weights_until_it_is_saved_anew(
    make_world: Callable[..., World], tiny_folder: Path
) -> None:
    first = load_world(tiny_folder)
    assert load_world(str(tiny_folder)) is first
    save_world(make_world(seed=5), tiny_folder)
    assert load_world(tiny_folder).fingerprint != first.fingerprint


def test_all_files_of_a_world_can_be_read_by_the_same_people(tiny_world: World, tmp_path: Path) -> None:
    folder = save_world(tiny_world, tmp_path / "world")
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_a_world_saved_twice_is_the_same_bytes(tiny_world: World, tmp_path: Path) -> None:
    one, two = save_world(tiny_world, tmp_path / "one"), save_world(tiny_world, tmp_path / "two")
    for name in FILES[:2]:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_loading_leaves_the_global_generator_alone(tiny_folder: Path) -> None:
    before = torch.get_rng_state()
    load_world(tiny_folder)
    assert torch.equal(before, torch.get_rng_state())


def test_the_fingerprint_tells_worlds_apart(make_world: Callable[..., World]) -> None:
    one, two = make_world(), make_world()
    assert one.fingerprint == two.fingerprint != make_world(seed=1).fingerprint


def test_worlds_are_found_by_name_in_the_home_folder(
    tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDSIM_HOME", str(tmp_path))
    save_world(tiny_world, tmp_path / "worlds" / "marbles")
    (tmp_path / "worlds" / "empty").mkdir()
    assert "marbles" in list_worlds() and "empty" not in list_worlds()
    assert load_world("marbles").config == tiny_world.config
    with pytest.raises(WorldError, match=r"unknown world 'marble' \(did you mean 'marbles'\?\)"):
        load_world("marble")


@pytest.mark.parametrize("name", ["nowhere", "", "/nowhere/at/all"])
def test_an_unknown_world_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(WorldError, match="unknown world .*name a folder, or hf:owner/name"):
        load_world(name)


def test_the_hub_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match="pip install"):
        load_world("hf:owner/name")
    with pytest.raises(WorldError, match="hf:owner/name"):
        load_world("hf:owner")


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
    (json.dumps({"format": FORMAT, "version": VERSION + 1}).encode(), f"version {VERSION + 1}"),
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


@pytest.mark.parametrize("values", [{"dim": 2**20}, {"window": 2**40}, {"height": 2**30}, {"encoder_layers": 2**30}])
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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more than `size` bytes to any file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# None of the weights fit, some do, or all of them but not the larger starts.
@pytest.mark.parametrize("size", [0, 5_000, 300_000])
def test_a_disk_that_is_full_while_saving_leaves_the_old_world(
    make_world: Callable[..., World], tiny_folder: Path, size: int
) -> None:
    old, new = contents(tiny_folder), make_world(seed=1, length=100)
    fresh = tiny_folder.parent / "fresh"
    for target in (tiny_folder, fresh):
        with files_of_at_most(size), pytest.raises(WorldError, match="free some space") as error:
            save_world(new, target)
        assert str(target) in str(error.value) and "\n" not in str(error.value)
    assert contents(tiny_folder) == old and not fresh.exists()
    assert load_world(save_world(new, tiny_folder)).starts[0].frames.shape[0] == 100
    assert (tiny_folder / "model.safetensors").stat().st_size < 300_000 < (tiny_folder / "starts.npz").stat().st_size


def test_a_really_full_disk_leaves_the_old_world(make_world: Callable[..., World], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        old = contents(save_world(make_world(), disk / "tiny"))
        (disk / "filler").write_bytes(b"x" * 160_000)
        with pytest.raises(WorldError, match="No space left") as error:
            save_world(make_world(seed=1), disk / "tiny")
        assert "\n" not in str(error.value) and contents(disk / "tiny") == old
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_else_lies_in_the_folder_stays(tiny_world: World, tiny_folder: Path) -> None:
    (tiny_folder / "dream.gif").write_bytes(b"GIF89a")
    (tiny_folder / "CARD.md").write_text("by hand")
    save_world(tiny_world, tiny_folder)
    assert contents(tiny_folder)["dream.gif"] == b"GIF89a" and contents(tiny_folder)["CARD.md"] == b"by hand"


def test_a_world_that_could_not_be_loaded_is_not_saved(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world()
    with torch.no_grad():
        world.model.decoder.out.weight[0] = float("nan")
    with pytest.raises(WorldError, match=r"NaN or infinity in decoder\.out\.weight"):
        save_world(world, tmp_path / "nan")
    world = make_world()
    longer = Start("longer", np.zeros((4, 16, 24, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(WorldError, match="same number of frames"):
        save_world(World(world.config, world.actions, world.model, (*world.starts, longer)), tmp_path / "starts")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorldError, match="cannot save to"):
        save_world(world, tmp_path / "file")
    assert (tmp_path / "file").exists() and len(list(tmp_path.iterdir())) == 1


def test_parts_that_do_not_belong_together_make_no_world(tiny_world: World) -> None:
    two = ActionTable.numbered(["A", "B"])
    with pytest.raises(WorldError, match="do not belong together"):
        World(tiny_world.config, two, tiny_world.model, tiny_world.starts)
    with pytest.raises(WorldError, match="do not belong together"):
        World(WorldConfig("x", ModelConfig(3)), tiny_world.actions, tiny_world.model, tiny_world.starts)
    with pytest.raises(WorldError, match="needs starts"):
        World(tiny_world.config, tiny_world.actions, tiny_world.model, ())
    with pytest.raises(StartError, match="32x32, this world has 16x24"):
        wrong = Start("wrong", np.zeros((1, 32, 32, 3), np.uint8), np.zeros(0, np.int64))
        World(tiny_world.config, tiny_world.actions, tiny_world.model, [wrong])


def test_a_new_world_can_be_run_and_saved_at_once(tmp_path: Path) -> None:
    from worldsim.engine.session import Session

    world = new_world(
        "blank",
        ModelConfig(2, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8),
        ActionTable.numbered("AB"),
    )
    session = Session(load_world(save_world(world, tmp_path / "blank")))
    assert session.reset().shape == session.step([1])[0].shape == (1, 64, 64, 3)
