"""What layers do, on networks whose answers are known, and as a command on real play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.cache import RingCache
from worldsim.engine.design_parts import StreamPart
from worldsim.evaluation import insight
from worldsim.evaluation.layers import main
from worldsim.evaluation.specimen import Separable, Specimen
from worldsim.evaluation.transformers import Buffered, Chunked, Clipped
from worldsim.model.config import ModelConfig
from worldsim.model.designs import Design
from worldsim.model.dit import DiT, wake
from worldsim.model.patches import patchify, shown
from worldsim.model.world_model import WorldModel
from worldsim.training.pretrain import main as train
from worldsim.training.progress import held_out_error

SIZES = {"dim": 32, "heads": 2, "encoder_layers": 3, "decoder_layers": 2, "decoder_width": 8, "window": 4}


@pytest.fixture(scope="module", params=["tokens", "convolutions"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    torch.manual_seed(0)
    made = WorldModel(ModelConfig(6, 80, 80, 10, decoder=request.param, **SIZES)).eval().requires_grad_(False)
    wake(made, seed=1, scale=0.1)
    return made


DESIGNS = ["dit", "dit:2", "clip:2", "stream:3", "stream-causal:3"]


@pytest.fixture(scope="module")
def networks() -> dict[str, DiT]:
    return {design: network_of(design) for design in DESIGNS}


def network_of(design: str) -> DiT:
    torch.manual_seed(0)
    made = Design.parse(design).make(ModelConfig(6, 80, 80, 10, **SIZES)).eval().requires_grad_(False)
    wake(made, seed=1, scale=0.1)
    return made


def specimen_of(design: str, network: DiT) -> Specimen:
    kind = Design.parse(design)
    if kind.kind == "dit":
        return Chunked(network)
    reference = kind.reference(ModelConfig(6, 80, 80, 10, **SIZES))
    return Clipped(network, kind.frames) if kind.kind == "clip" else Buffered(network, kind.frames, reference)


@pytest.fixture(params=["scd", *DESIGNS])
def specimen(request: pytest.FixtureRequest, model: WorldModel, networks: dict[str, DiT]) -> Specimen:
    if request.param != "scd":
        return specimen_of(request.param, networks[request.param])
    return Separable(model)


@pytest.fixture
def store(pong_data: Dataset) -> ClipStore:
    return ClipStore(pong_data, pong_data.held_out, 8)


def test_attention_is_shared_out_among_the_frames_that_are_seen(specimen: Specimen, store: ClipStore) -> None:
    seen, ages = insight.looks(specimen, store, 2), list(specimen.ages)
    assert seen.by_age.shape == (3, 2, len(ages)) and seen.frames.shape == (3, 2)
    np.testing.assert_allclose(seen.by_age.sum(-1), 1, atol=1e-6)
    assert (seen.frames > 1).all() and (seen.frames < len(ages)).all()
    assert (seen.by_age > 0).all(), "every age that is said to be seen is"
    biased = specimen.attentions[1]
    before = biased.age_bias.clone()
    try:
        biased.age_bias[0, getattr(biased, "chunk", 1) - 1 + 1] = 50.0  # one head looks one frame back, if it is there
        seen = insight.looks(specimen, store, 1)
        assert seen.by_age[1, 0, ages.index(1)] > 0.45 > seen.by_age[1, 1, ages.index(1)]
        if ages[0] == 0:
            assert seen.by_age[1, 0, 1] == pytest.approx(1)
            assert seen.frames[1, 0] == pytest.approx(1) and seen.frames[1, 1] > 1.5
    finally:
        biased.age_bias.copy_(before)


@pytest.mark.parametrize(
    ("design", "ages"),
    [("dit", (0, 3)), ("dit:2", (-1, 4)), ("clip:2", (-1, 3)), ("stream:3", (-2, 3)), ("stream-causal:3", (0, 3))],
)
def test_frames_that_are_made_together_see_each_other(
    design: str, ages: tuple[int, int], networks: dict[str, DiT]
) -> None:
    of = specimen_of(design, networks[design])
    assert (of.ages[0], of.ages[-1]) == ages


def test_features_at_a_step_are_like_themselves_and_less_like_others(specimen: Specimen, store: ClipStore) -> None:
    features = insight.features_by_step(specimen, store, 3)
    assert len(features) == len(specimen.blocks) and all(len(block) == 3 for block in features)
    assert len({grid.shape[0] for block in features for grid in block}) == 1, "the same frames in every step"
    for block in features:
        alike = insight.similarity(block)
        np.testing.assert_allclose(np.diag(alike), 1, atol=1e-6)
        np.testing.assert_allclose(alike, alike.T, atol=1e-12)
        assert alike[0, 2] < 1
        pictures = insight.principal(block, -1)
        assert len(pictures) == 3 and pictures[0].shape == (*block[0].shape[1:3], 3)
        assert 0 <= np.min(pictures) < np.max(pictures) <= 1


def test_a_cut_is_made_for_the_measurement_alone(specimen: Specimen, store: ClipStore) -> None:
    whole = specimen.error(store, 1, 0, 2)
    rows = insight.cuts(specimen, store, 1, steps=2)
    assert rows[0] == {"what": "nothing", **whole} and specimen.error(store, 1, 0, 2) == whole
    found = {row["what"]: row["all"] for row in rows}
    blocks = len(specimen.blocks)
    assert len(found) == len(rows) == 1 + 3 + 2 + blocks + (blocks > 3)
    assert len(set(found.values())) == len(found), "each takes something else out"


def test_without_its_memory_a_network_is_one_that_sees_a_single_frame(model: WorldModel, store: ClipStore) -> None:
    rows = {row["what"]: row for row in insight.cuts(Separable(model), store, 1, steps=1)}
    alone = WorldModel(ModelConfig(**{**vars(model.config), "window": 2})).eval().requires_grad_(False)
    weights = {name: w[:, :2] if name.endswith("age_bias") else w for name, w in model.state_dict().items()}
    for name in weights:
        if name.endswith("age_bias"):
            weights[name] = weights[name].clone()
            weights[name][:, 1] = -1e9  # nobody looks at the frame before
    alone.load_state_dict(weights)
    wanted = held_out_error(alone, store, 1)
    got = rows["temporal attention of blocks 1 to 3"]
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)


def test_a_transformer_is_looked_into_as_its_roll_out_computes(networks: dict[str, DiT], store: ClipStore) -> None:
    """A frame that is being made looks at clean ones before it and at itself, as it does with a cache."""
    network = networks["dit"]
    of = Chunked(network)
    shares = next(iter(of.shares(store, 0, 0)))
    torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]))
    denoise, noise = of.denoising(store, 0, 0)
    clip, _ = store.draw(0, 0, 0)
    clean = shown(patchify(torch.from_numpy(clip.frames), network.config), torch.float32)
    led = torch.cat((torch.tensor([network.no_action]), torch.from_numpy(clip.actions)))
    cache = RingCache(network, 1)
    together = denoise(noise, 1.0)
    for at in range(len(clean)):
        ring = cache.keys, cache.values, cache.bias()
        told = [network.condition(torch.full((1, 1), level), led[None, at : at + 1]) for level in (1.0, 0.0)]
        made = network.step(noise[None, at : at + 1], told[0], *ring)
        torch.testing.assert_close(together[at], made[0, 0], rtol=1e-4, atol=1e-4)
        keys, values = network.remember(clean[None, at : at + 1], told[1], *ring)
        cache.write_chunk(keys, values)


def test_the_command_looks_into_other_designs_or_says_that_it_cannot(
    pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for design, code in (("dit:2", 0), ("clip:2", 0), ("stream:2", 0), ("stream-windows:2", 2)):
        small = ["compile=false", "threads=1", "steps=2", "batch=1", "report.held_out_clips=1", "report.grid_rows=1"]
        small += [f"model.{name}={value}" for name, value in SIZES.items()] + ["report.grid_ticks=[1,4]"]
        run = tmp_path / design.replace(":", "-")
        told = ["world=pong", f"design={design}", f"data={pong_data.folder}", f"run={run}", *small]
        assert train(told) in (0, None)
        capsys.readouterr()
        asked = [f"world={run / 'world'}", f"data={pong_data.folder}", f"out={run / 'probed'}", "clips=1", "steps=2"]
        assert main([*asked, "threads=1"]) == code
        said = capsys.readouterr()
        if code:
            assert "which stream-windows:2 of 'pong' does not" in said.err
        else:
            assert "Frames are seen up to" in said.out
            assert "| block 3 after the first step |" in said.out and "encoder" not in said.out


def test_the_command_writes_numbers_tables_and_pictures(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probed"
    told = [f"world={tiny_world_folder}", f"data={pong_data.folder}", f"out={out}", "clips=2", "steps=2", "threads=1"]
    assert main(told) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert np.array(report["attention_by_age"]).shape == (2, 2, 4)
    assert np.array(report["similarity"]).shape[1:] == (2, 2) and report["cuts"][0]["what"] == "nothing"
    text = capsys.readouterr().out
    assert "| head | past | age, ticks | frames |" in text and "| nothing |" in text
    assert all((out / f"{name}.png").stat().st_size > 1000 for name in ("attention", "similarity", "features"))


@pytest.mark.parametrize(
    ("setting", "said"), [("clips=0", "clips must be 1"), ("steps=0", "denoising steps"), ("world=nowhere", "nowhere")]
)
def test_bad_settings_are_one_line(setting: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([setting]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_buffer_is_looked_into_as_it_moves(networks: dict[str, DiT], store: ClipStore) -> None:
    """A frame enters as noise and leaves clean after as many steps as the buffer is long, whatever else is in it."""
    network = networks["stream:3"]
    of = Buffered(network, 3, 1)
    features = of.features(store, 0, 0, 3)
    seen: list[torch.Tensor] = []
    hook = network.blocks[0].register_forward_hook(lambda block, given, made: seen.append(made))
    part = StreamPart(network, 3, 1, 1).eval()
    clip, rng = store.draw(0, 0, 0)
    clean = shown(patchify(torch.from_numpy(clip.frames)[None], network.config), torch.float32)
    led = torch.cat((torch.tensor([network.no_action]), torch.from_numpy(clip.actions)))[None]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(clean.shape[1:], generator=generator)
    # The first frame that enters as noise is the clip's fourth, behind two that are on their way.
    buffer = torch.stack([clean[0, 1].lerp(noise[1], 1 / 3), clean[0, 2].lerp(noise[2], 2 / 3), noise[3]])[None]
    for at in range(3):
        buffer = part(torch.cat((clean[:, at : at + 1], buffer), 1), led[:, at : at + 4])
        made = seen[at][0, 1 + 2 - at].unflatten(0, (8, 8))
        torch.testing.assert_close(features[0][at][0], made)
        buffer, out = torch.cat((buffer[:, 1:], noise[None, at + 4 : at + 5]), 1), buffer[0, 0]
    hook.remove()
    torch.testing.assert_close(of._move(store, 0, 0, 3)[0], out)


def test_a_frames_first_tick_in_a_buffer_is_not_cut(networks: dict[str, DiT]) -> None:
    of = Buffered(networks["stream:3"], 3, 1)
    given, made = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert of.skipper(3)(of.blocks[0], (given,), made)[0, :, 0, 0].tolist() == [0, 0, 0, 1]
