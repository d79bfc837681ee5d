"""A world on disk: what is written comes back, and nothing else gets in."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.actions import ActionTable
from worldsim.errors import MissingExtra, StartError, WorldError
from worldsim.model.config import ModelConfig
from worldsim.world import Start, World, WorldConfig, list_worlds, load_world, new_world, save_world


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
    first, *others = world.starts
    world = World(world.config, world.actions, world.model, [replace(first, since=-7), *others])
    world.card = "# tiny\n\nMade by a test, 5 µs.\n"
    back = load_world(save_world(world, tmp_path / "a" / "tiny"))
    assert back.config == world.config and back.actions == world.actions and back.card == world.card
    for one, two in zip(world.starts, back.starts, strict=True):
        assert one.name == two.name and one.since == two.since
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.actions, two.actions)
    for name, weight in world.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weight.to(torch.bfloat16).float())
    assert not back.model.training and sorted(path.name for path in (tmp_path / "a" / "tiny").iterdir()) == [
        "CARD.md", "config.json", "model.safetensors", "starts.npz",
    ]  # fmt: skip


def test_a_decoder_of_convolutions_is_not_taken_for_one_of_tokens(tmp_path: Path) -> None:
    """Its layers are fewer numbers than a token decoder's; beside a small encoder, as a pair, they were refused."""
    shape = ModelConfig(3, 40, 40, 10, dim=128, heads=2, encoder_layers=1, decoder_layers=6, decoder_width=8, window=2)
    actions = [{"name": name, "keys": []} for name in "abc"]
    table = ActionTable.from_json({"actions": actions, "noop": 0})
    back = load_world(save_world(new_world("slight", shape, table), tmp_path / "slight"))
    assert back.config.model == shape


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
    for name in ("config.json", "model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_loading_leaves_the_global_generator_alone(tiny_folder: Path) -> None:
    before = torch.get_rng_state()
    load_world(tiny_folder)
    assert torch.equal(before, torch.get_rng_state())


def test_the_fingerprint_tells_worlds_apart(make_world: Callable[..., World]) -> None:
    one, two = make_world(), make_world()
    assert one.fingerprint == two.fingerprint != make_world(seed=1).fingerprint
    assert make_world(settings={"shift": 0.5}).fingerprint != one.fingerprint
    moved = one.shifted(0.5)
    assert moved.fingerprint == make_world(settings={"shift": 0.5}).fingerprint and moved.network is one.network
    assert one.shifted(None) is one and one.shifted(1.0) is one
    with pytest.raises(WorldError, match="shift must be a positive number, not 0"):
        one.shifted(0)


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
