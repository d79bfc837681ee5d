"""Backends: each gives what eager float32 gives, on the same noise, through a full ring and a row reset."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from worldsim.benchmark.measure import frame_error
from worldsim.engine.backends import BACKENDS, load_backend
from worldsim.engine.backends.aoti import package_path
from worldsim.engine.backends.int8 import Int8Linear, rounded, rounds
from worldsim.engine.parts import DecodePart, EncodePart, OutcomePart
from worldsim.engine.session import Session
from worldsim.errors import BackendError, WorldsimError
from worldsim.world import World, load_world

COMPILER = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
OPENVINO = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
ON_CPU = [
    "torchscript",
    pytest.param("inductor", marks=COMPILER),
    pytest.param("aoti", marks=COMPILER),
    pytest.param("openvino", marks=OPENVINO),
]
WORK = pytest.mark.parametrize("backend", ON_CPU)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compilers' caches outlive a test here: the same little graphs are asked for again."""
    return tmp_path_factory.mktemp("compiled")


@WORK
def test_a_backend_dreams_what_eager_float32_dreams(backend: str, make_world) -> None:
    world = make_world(seed=1)
    window = world.config.model.window
    eager, fast = (Session(world, 2, seed=3, dtype="float32", backend=name) for name in ("eager", backend))
    assert (eager.backend, fast.backend) == ("eager", backend)
    for session in (eager, fast):
        session.reset(start=[0, 2])
    random = np.random.default_rng(0)
    for tick in range(3 * window):
        if tick == window + 1:  # from here on the rows are of different ages
            for session in (eager, fast):
                session.reset([1], start="episode 1", seed=7)
        actions = random.integers(0, len(world.actions), 2)
        one, two = eager.render(actions), fast.render(actions)
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1  # rounding of a last bit
        fast._memory.frames.copy_(eager._memory.frames)  # the same memory, or chance would add up
        assert (eager.commit().reward == fast.commit().reward).all()
        left, right = eager.snapshot(), fast.snapshot()
        np.testing.assert_allclose(left.context, right.context, rtol=0, atol=1e-3)
        np.testing.assert_allclose(left.keys, right.keys, rtol=0, atol=1e-3)
    assert one.std() > 1


def test_int8_dreams_what_eager_float32_dreams_but_for_its_rounding(tiny_world: World) -> None:
    fast, again, exact = (Session(tiny_world, dtype="float32", backend=name) for name in ("int8", "int8", "eager"))
    off = frame_error(fast, 20, np.random.default_rng(0))
    assert 0 < off["frame_error_mean"] < 0.5, "of random weights: less than half a grey level"
    assert off == frame_error(again, 20, np.random.default_rng(0)), "the same in every session"
    assert frame_error(exact, 5, np.random.default_rng(0)) == {"frame_error_mean": 0.0, "frame_error_max": 0.0}
    box = frame_error(Session(load_world("pong"), dtype="float32", backend="int8"), 20, np.random.default_rng(0))
    assert box["frame_error_mean"] < 0.03, "less than a frame's own rounding to uint8 would add"
    assert box["frame_error_max"] < 64, "the edge of a thing that moves may be a shade off, not the thing"


def test_int8_rounds_the_blocks_and_not_what_sees_pixels(tiny_world: World) -> None:
    model = tiny_world.model_on(torch.device("cpu"), torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoder = rounded(EncodePart(model)).get_submodule("model.encoder")
    assert isinstance(encoder.get_submodule("patches"), nn.Linear)
    assert all(isinstance(block.get_submodule("mlp.down"), nn.Linear) for block in encoder.get_submodule("blocks"))
    for name in ("space.qkv", "space.out", "time.qkv", "time.out", "mlp.up"):
        assert all(isinstance(block.get_submodule(name), Int8Linear) for block in encoder.get_submodule("blocks"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "it is a copy"


@pytest.mark.parametrize("decoder", ["tokens", "convolutions"])
def test_int8_says_whether_a_tick_runs_anything_that_it_rounds(decoder: str, make_world) -> None:
    model = make_world(decoder=decoder, heads=2).model
    for rests in (False, True):
        if rests:
            with torch.no_grad():
                model.encoder.rest()
        parts = [DecodePart(model, (1.0, 0.0)), *([] if rests else [EncodePart(model).model.encoder])]
        some = any(isinstance(layer, Int8Linear) for part in parts for layer in rounded(part).modules())
        assert rounds(model) == some == (decoder == "tokens" or not rests)


def test_int8_does_not_pretend_to_round_bfloat16(tiny_world: World) -> None:
    with pytest.raises(BackendError, match="dtype=float32"):
        Session(tiny_world, dtype="bfloat16", backend="int8")


@COMPILER
def test_aoti_compiles_once_and_refuses_a_damaged_library(
    make_world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLDSIM_HOME", str(tmp_path))
    world = make_world(seed=1)
    Session(world, backend="aoti", dtype="float32").close()
    alone = Session(world, backend="aoti", dtype="float32")
    off = frame_error(alone, 3 * world.config.model.window, np.random.default_rng(0))
    assert off["frame_error_max"] <= 1, "a single row too, whose ring's bias was once read from the wrong places"
    packages = sorted((tmp_path / "compiled").glob("*.pt2"))
    assert len(packages) == 3 and not list((tmp_path / "compiled").glob(".build-*"))
    times = [path.stat().st_mtime_ns for path in packages]
    Session(world, backend="aoti", dtype="float32").close()
    assert times == [path.stat().st_mtime_ns for path in packages]
    part, other = (OutcomePart(make_world(seed=n).model_on(torch.device("cpu"), torch.float32)) for n in (1, 2))
    example = (torch.zeros(1),)
    assert package_path(part, example) != package_path(other, example), "other weights are another library"
    for path in packages:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackendError, match="delete it"):
        Session(world, backend="aoti", dtype="float32")


def test_parts_are_swapped_between_ticks_and_the_dream_goes_on(make_world) -> None:
    world = make_world(seed=1)
    session, straight = (Session(world, seed=3, dtype="float32") for _ in range(2))
    session.reset(start=0)
    straight.reset(start=0)
    parts = session.make_parts("torchscript")
    for tick in range(6):
        if tick == 3:
            session.adopt(parts)
        frames, _ = session.step([1])
        assert np.abs(frames.astype(int) - straight.step([1])[0].astype(int)).max() <= 1
    assert session.backend == "torchscript"
    straight.steps = 3
    with pytest.raises(WorldsimError, match="make_parts"):
        straight.adopt(parts)


def test_an_unknown_or_impossible_backend_is_refused_in_one_line(tiny_world: World) -> None:
    with pytest.raises(BackendError, match="did you mean 'eager'") as error:
        Session(tiny_world, backend="eger")
    assert all(name in str(error.value) for name in BACKENDS)
    for name in ("cudagraphs", "tensorrt"):
        with pytest.raises(BackendError, match="needs an NVIDIA GPU, not device=cpu") as error:
            load_backend(name, torch.device("cpu"))
        assert "\n" not in str(error.value)


@CUDA
@pytest.mark.parametrize("backend", ["cudagraphs", "inductor", "tensorrt"])
def test_a_gpu_backend_dreams_what_eager_dreams(backend: str, make_world) -> None:
    if backend == "tensorrt":
        pytest.importorskip("torch_tensorrt")
    world = make_world(seed=1)
    eager, fast = (Session(world, seed=3, device="cuda", dtype="float32", backend=name) for name in ("eager", backend))
    eager.reset(start=0)
    fast.reset(start=0)
    for _ in range(8):
        one, two = eager.step([1])[0].astype(int), fast.step([1])[0].astype(int)
        assert np.abs(one - two).mean() < 0.5


def test_sessions_are_traced_side_by_side(make_world: Callable[..., World]) -> None:
    """As `evaluate backend=torchscript threads=2` opens them: PyTorch has one tracer for the whole process."""
    worlds = [make_world(seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda world: Session(world, 2, backend="torchscript", dtype="float32"), worlds * 4))
    for world, session in zip(worlds * 4, sessions, strict=True):
        plain = Session(world, 2, dtype="float32")
        for one in (plain, session):
            one.reset(seed=1)
        expected, made = (one.render(np.array([1, 2])).astype(int) for one in (plain, session))
        assert np.abs(expected - made).max() <= 1
