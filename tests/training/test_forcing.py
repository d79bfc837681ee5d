"""Other designs are taught: each frame at the level its roll-out will ask for, and a run of one is a run like any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.sampler import shift_levels
from worldsim.errors import RunError, WorldError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import Design
from worldsim.model.dit import DiT, wake
from worldsim.model.patches import patchify, shown
from worldsim.training.forcing import Forcing, Levelled
from worldsim.training.loss import hindsight
from worldsim.training.pretrain import main
from worldsim.world import load_world

SMALL = ModelConfig(6, height=16, width=16, dim=32, heads=2, encoder_layers=2, window=6)
TINY = [
    "batch=2", "compile=false", "dtype=float32", "threads=1", "model.patch=16", "model.dim=32", "model.heads=2",
    "model.encoder_layers=1", "model.window=4", "report.held_out_clips=1", "report.grid_rows=1",
    "report.grid_ticks=[1,4]", "optimizer.warmup=2",
]  # fmt: skip


def forcing(name: str, how: str = "diffusion") -> Forcing:
    return Forcing(Design.parse(name), SMALL, how, 5.0)


def batch(of: Forcing, frames: int, rows: int = 2) -> Levelled:
    rng = np.random.default_rng(0)
    return Levelled(
        torch.from_numpy(rng.integers(0, 256, (rows, frames, SMALL.height, SMALL.width, 3), np.uint8)),
        torch.from_numpy(rng.integers(0, 6, (rows, frames))),
        torch.from_numpy(of.levels(rng, rows, frames)),
        torch.from_numpy(rng.standard_normal((rows, frames, SMALL.tokens, SMALL.patch_dim), dtype=np.float32)),
    )


def error(of: Forcing, network: DiT, given: Levelled, weight: float = 1.0) -> torch.Tensor:
    clean = shown(patchify(given.frames, SMALL), torch.float32)
    return of.error(network, clean, given.led, given.t, given.noise, weight)


def levels(name: str, frames: int, how: str = "diffusion") -> np.ndarray:
    return forcing(name, how).levels(np.random.default_rng(0), 500, frames)


def test_frames_of_a_chunk_share_a_level_and_chunks_have_their_own() -> None:
    t = levels("dit:3", 12)
    assert t.shape == (500, 12) and t.min() > 0 and t.max() <= 1
    chunks = t.reshape(500, 4, 3)
    assert (chunks == chunks[..., :1]).all()
    assert abs(np.corrcoef(chunks[..., 0].T) - np.eye(4)).max() < 0.2
    assert t.mean() == pytest.approx(0.5, abs=0.03), "history is as noisy as can be: all levels alike"
    assert levels("dit:3", 12, "teacher").mean() > 0.7, "what is made starts from pure noise: towards that"


def test_a_clip_has_clean_frames_before_those_that_are_made_at_one_level() -> None:
    t = levels("clip:2", 6)
    assert (t[:, :4] == 0).all() and (t[:, 4:] > 0).all() and (t[:, 4] == t[:, 5]).all()


def test_mixed_partitions_share_levels_in_chunks_of_every_size() -> None:
    t = levels("stream:4", 6, "mixed")
    assert (t[:, :2] == 0).all() and t[:, 2:].min() > 0 and t.max() <= 1
    distinct = np.array([len(np.unique(row)) for row in t[:, 2:].round(5)])
    assert {1, 2, 4} == set(distinct) and min((distinct == k).mean() for k in (1, 2, 4)) > 0.25
    pairs = t[distinct == 2, 2:]
    np.testing.assert_allclose(pairs[:, [1, 3]], pairs[:, [0, 2]])
    np.testing.assert_allclose(pairs[:, 2] - pairs[:, 0], 0.5, atol=1e-6)
    assert t[distinct == 1, 2].max() > 0.9 and t[distinct == 1, 2].min() < 0.1
    with pytest.raises(RunError, match="forcing=mixed is for designs of a moving buffer, not dit"):
        forcing("dit", "mixed")


@pytest.mark.parametrize("name", ["stream:4", "stream-causal:4"])
def test_levels_rise_along_a_buffer_as_they_do_when_it_moves(name: str) -> None:
    t = levels(name, 6)
    assert (t[:, :2] == 0).all()
    np.testing.assert_allclose(np.diff(t[:, 2:], axis=1), 0.25, atol=1e-6)
    assert t[:, 2].max() <= 0.25 and t[:, 2].min() > 0
    shifted = Forcing(Design.parse(name), SMALL, "diffusion", 5.0, sampling_shift=0.25)
    np.testing.assert_allclose(shifted.levels(np.random.default_rng(0), 500, 6), shift_levels(t, 0.25), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "how"),
    [("dit", "diffusion"), ("dit:3", "teacher"), ("clip:3", "diffusion"), ("stream:3", "diffusion"),
     ("stream-windows:3", "mixed")],
)  # fmt: skip
def test_given_frames_cost_nothing_and_what_is_made_is_taught(name: str, how: str) -> None:
    """The error is that of the frames that are made, to the recorded ones, and the gradient reaches every weight."""
    of = forcing(name, how)
    torch.manual_seed(0)
    network = of.design.make(SMALL)
    wake(network, 1)
    given = batch(of, of.stretch or 6)
    found = error(of, network, given)
    found.backward()
    still = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []
    with torch.no_grad():
        clean = shown(patchify(given.frames, SMALL), torch.float32)
        noisy = torch.lerp(clean, given.noise, given.t[..., None, None])
        if how == "teacher":
            made, wanted = network.teach(clean, noisy, given.t, given.led), slice(of.design.frames, None)
        else:
            made = network(noisy, given.t, given.led)
            wanted = slice(0 if name == "dit" else clean.shape[1] - of.design.frames, None)
        torch.testing.assert_close(found.detach(), (made - clean)[:, wanted].square().mean())


def test_teacher_forcing_shows_clean_history_and_does_not_ask_for_the_first_chunk() -> None:
    of = forcing("dit:2", "teacher")
    torch.manual_seed(0)
    network = of.design.make(SMALL)
    wake(network, 1)
    given = batch(of, 6)
    noise = given.noise.clone()
    noise[:, :2] += 3  # of the first chunk: neither asked for, nor anybody's history
    with torch.no_grad():
        before = error(of, network, given)
        after = error(of, network, Levelled(given.frames, given.led, given.t, noise))
    torch.testing.assert_close(after, before)


def test_weights_of_pixels_do_not_tell_what_is_to_be_made() -> None:
    """The best guess must be the mean: with the same guess, the weight is the same whatever follows."""
    of = forcing("dit")
    network = of.design.make(SMALL)  # fresh: guesses nothing, whatever it is given
    given = batch(of, 6)
    still = given.frames[:, :1].expand_as(given.frames)
    moving = Levelled(given.frames, given.led, given.t, given.noise)
    with torch.no_grad():
        for frames in (still, moving.frames):
            one, many = (
                error(of, network, Levelled(frames, given.led, given.t, given.noise), weight) for weight in (1.0, 16.0)
            )
            torch.testing.assert_close(many, one)


def test_in_hindsight_they_do() -> None:
    of = forcing("dit")
    network = of.design.make(SMALL)  # fresh: guesses grey everywhere
    given = batch(of, 6)
    clean = shown(patchify(given.frames, SMALL), torch.float32)
    weights = hindsight(SMALL, clean[:, [0, 0, 1, 2, 3, 4]], clean, 16.0)
    with torch.no_grad():
        found = of.error(network, clean, given.led, given.t, given.noise, 16.0, hindsight=1.0)
    torch.testing.assert_close(found, (clean.square() * weights).mean())
    assert weights[:, 0].max() == 1 and weights[:, 1:].max() == 16


def test_the_same_numbers_make_the_same_batch_in_any_number_of_parts(pong_data: Dataset) -> None:
    config = pong_data.config["source"]
    sizes = {"height": config["height"], "width": config["width"], "patch": 16, "window": 4}
    of = Forcing(Design.parse("stream:2"), ModelConfig(len(pong_data.actions), **sizes), "diffusion", 5.0)
    store = ClipStore(pong_data, pong_data.train, 12)
    cpu = torch.device("cpu")
    whole = of.batch(store, 0, 3, range(0, 2), cpu)
    assert whole.frames.shape[:2] == (6, 4), "twelve frames are three stretches of four"
    parts = [of.batch(store, 0, 3, range(place, place + 1), cpu) for place in range(2)]
    for name, value in vars(whole).items():
        assert torch.equal(value, torch.cat([getattr(part, name) for part in parts])), name


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint.safetensors")


@pytest.mark.parametrize("design", ["dit:2", "clip:2", "stream:2", "stream-causal:2", "stream-windows:2"])
def test_a_design_is_trained_and_becomes_a_world(design: str, pong_data: Dataset, tmp_path: Path) -> None:
    how = "teacher" if design.startswith("dit") else "diffusion"
    asked = [f"design={design}", f"forcing={how}", "steps=4", f"data={pong_data.folder}", f"run={tmp_path / 'run'}"]
    seeing = ["model.viewed=true", "model.extrapolated=4", "model.standardised=true"]
    assert main(["world=pong", *asked, *TINY, *seeing]) in (0, None)
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["design"] == design
    world = load_world(tmp_path / "run" / "world")
    assert world.config.design == design and f"design={design}" in world.card
    with pytest.raises(WorldError, match="for evaluate and benchmark alone"):
        _ = world.model


def test_a_run_of_a_design_goes_on_as_if_it_had_not_stopped(pong_data: Dataset, tmp_path: Path) -> None:
    """With a constant rate, three steps and three more are six."""
    asked = ["world=pong", "design=dit", f"data={pong_data.folder}", *TINY, "optimizer.decay=0.0001"]
    assert main([*asked, f"run={tmp_path / 'straight'}", "steps=6"]) in (0, None)
    assert main([*asked, f"run={tmp_path / 'parts'}", "steps=3"]) in (0, None)
    assert main([*asked, f"run={tmp_path / 'parts'}", "steps=6"]) in (0, None)
    one, other = state(tmp_path / "straight"), state(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("design", ["scd", "dit"])
def test_hindsight_ends_within_a_run(design: str, pong_data: Dataset, tmp_path: Path) -> None:
    found = []
    for told in ("null", "0.5", "1"):
        asked = [f"design={design}", "steps=4", f"data={pong_data.folder}", f"run={tmp_path / told}", *TINY]
        alone = ["moments=null", "replay.steps=0", "outcomes.steps=0", "loss.own_share=0", f"loss.hindsight={told}"]
        assert main(["world=pong", *asked, *alone]) in (0, None)
        found.append(state(tmp_path / told))
    at = "model." + ("decoder.out.weight" if design == "scd" else "out.weight")
    none, half, all_along = (tensors[at] for tensors in found)
    assert not torch.equal(none, half) and not torch.equal(half, all_along)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["design=dti"], "there is scd, dit"),
        (["design=dit", "forcing=none"], "there is diffusion, teacher, mixed"),
        (["design=dit", "init=pong"], "begins from nothing"),
        (["design=dit", "model.past_actions=4"], "model.past_actions is for design=scd, not for dit: leave it 1"),
        (["design=clip:2", "forcing=teacher"], "is for design=dit and dit:<k>, not clip:2"),
        (["forcing=teacher"], "the separable design has its own"),
        (["model.viewed=true"], "model.viewed is for other designs than scd"),
    ],
)
def test_bad_settings_are_told(
    settings: list[str], said: str, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world=pong", f"data={pong_data.folder}", f"run={tmp_path / 'run'}", *TINY, "steps=2", *settings]) == 2
    assert said in capsys.readouterr().err


def test_a_way_of_teaching_that_there_is_not() -> None:
    with pytest.raises(RunError, match="forcing is 'none'"):
        forcing("dit", "none")
