"""Backends: each gives what eager float32 gives, on the same noise, through a full ring and a row reset."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.engine.backends import BACKENDS, load_backend
from worldsim.engine.session import Session
from worldsim.errors import BackendError, WorldsimError
from worldsim.world import World

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


@COMPILER
def test_aoti_compiles_once_and_refuses_a_damaged_library(
    make_world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLDSIM_HOME", str(tmp_path))
    world = make_world(seed=1)
    Session(world, backend="aoti", dtype="float32").close()
    packages = sorted((tmp_path / "compiled").glob("*.pt2"))
    assert len(packages) == 3 and not list((tmp_path / "compiled").glob(".build-*"))
    times = [path.stat().st_mtime_ns for path in packages]
    Session(world, backend="aoti", dtype="float32").close()
    assert times == [path.stat().st_mtime_ns for path in packages]
    Session(make_world(seed=2), backend="aoti", dtype="float32").close()
    assert len(list((tmp_path / "compiled").glob("*.pt2"))) == 6, "other weights are other libraries"
    for path in packages:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackendError, match="delete it"):
        Session(world, backend="aoti", dtype="float32")


@COMPILER
def test_parts_are_swapped_between_ticks_and_the_dream_goes_on(make_world) -> None:
    world = make_world(seed=1)
    session, straight = (Session(world, seed=3, dtype="float32") for _ in range(2))
    session.reset(start=0)
    straight.reset(start=0)
    parts = session.make_parts("inductor")
    for tick in range(6):
        if tick == 3:
            session.adopt(parts)
        frames, _ = session.step([1])
        assert np.abs(frames.astype(int) - straight.step([1])[0].astype(int)).max() <= 1
    assert session.backend == "inductor"
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
