"""The rooms stand on floors: a lower one never imports a higher one, and heavy things stay in their room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up; what stands on one line may import each other.
FLOORS = (
    ("errors",),
    ("schema", "locking", "machine"),
    ("configs", "assets"),
    ("settings", "checkpoint"),
    ("actions",),
    ("vision", "film"),
    ("model",),
    ("start", "world_files", "world"),
    ("engine",),
    ("envs",),
    ("agents", "data"),  # agents play what is recorded, and learn from it
    ("training",),
    ("evaluation",),
    ("play",),
    ("benchmark",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

BESIDE = ("envs", "agents", "configs", "assets")  # beside worldsim/ in a checkout, beneath it for Python

ALLOWED = {
    "pygame": {"play"},
    "hydra": {"settings"},
    "omegaconf": {"settings"},
    "gymnasium": {"envs", "agents", "data", "evaluation"},
    "ale_py": {"envs"},
    "tensorboard": {"training"},
}
FORBIDDEN = {"cv2": {"model", "engine"}, "pickle": {"world", "world_files", "start", "model"}}


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name below `worldsim`, file) of all that is shipped but the door `worldsim/__init__.py`."""
    for folder, prefix in (("worldsim", ""), ("envs", "envs"), ("agents", "agents"), ("configs", "configs")):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = [*filter(None, [prefix]), *file.relative_to(ROOT / folder).with_suffix("").parts]
            name = ".".join(part for part in parts if part != "__init__")
            if name:
                yield name, file


MODULES = dict(modules())


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: write the import in full"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    room = module.split(".")[0]
    assert room in FLOOR, f"{module} has no floor: give it one in this test"
    for name, line in imports(MODULES[module]):
        top, _, inside = name.partition(".")
        assert top not in BESIDE, f"{module}:{line}: write worldsim.{name}"
        target = inside.split(".")[0]
        if top != "worldsim" or target in (room, "__version__", ""):
            continue
        assert target in FLOOR, f"{module}:{line} imports {name}, which has no floor"
        above = f"{module}:{line} imports {name}, which stands above it"
        assert FLOOR[target] <= FLOOR[room], above


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_the_rooms_that_own_them(module: str) -> None:
    room = module.split(".")[0]
    for name, line in imports(MODULES[module]):
        library = name.split(".")[0]
        assert room in ALLOWED.get(library, {room}), f"{module}:{line} imports {library}"
        assert room not in FORBIDDEN.get(library, set()), f"{module}:{line} imports {library}"


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    return set(run.stdout.split())


def test_importing_worldsim_registers_its_worlds_and_loads_nothing_heavy() -> None:
    loaded = loaded_by("import worldsim, gymnasium; assert 'WorldSim/Pong-v0' in gymnasium.registry")
    assert loaded.isdisjoint({"torch", "pygame", "cv2", "hydra", "omegaconf", "safetensors", "ale_py"})


def test_an_environment_needs_no_pygame_and_no_hydra() -> None:
    loaded = loaded_by("import worldsim.envs.world_env")
    assert loaded.isdisjoint({"pygame", "hydra", "omegaconf", "ale_py"})


def test_asking_for_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    loaded = loaded_by("from worldsim.__main__ import main; main(['--help']); main(['nonsense'])")
    assert loaded.isdisjoint({"torch", "pygame", "cv2", "hydra", "omegaconf"})
