"""What is shipped, and that a checkout works after a plain and after an editable install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("worldsim", "envs", "agents", "configs", "assets")
FILES = ("pyproject.toml", "README.md", "LICENSE", "play.py")

# What needs the folders beside worldsim/, in whatever way they are installed.
PROBE = """
import gymnasium, worldsim
from worldsim import agents, assets, configs, envs
from worldsim.settings import load_group
assert load_group("source", "pong")["id"] == "ALE/Pong-v5"
assert "WorldSim/Pong-v0" in gymnasium.registry
print(worldsim.__file__, envs.__file__)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout: building in the real one would leave folders behind."""
    folder = tmp_path_factory.mktemp("checkout")
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SHIPPED:
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, checkout, cwd=folder)
    shutil.rmtree(checkout / "build", ignore_errors=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["plain", "editable"])
def python(
    request: pytest.FixtureRequest, wheel: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The Python of a new environment with worldsim installed in one of the two ways.

    It sees this environment's libraries through a path file, which, other than --system-site-packages, leaves
    out an editable install of worldsim in this one.
    """
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    executable = folder / "bin" / "python"
    site = Path(
        run(executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)), encoding="utf-8")
    what = [wheel] if request.param == "plain" else ["--no-build-isolation", "-e", checkout]
    pip("--python", executable, "install", "-q", "--no-deps", *what, cwd=folder)
    return executable


def test_nothing_but_worldsim_is_shipped_at_the_top(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} <= {"worldsim", f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_every_file_that_a_room_needs_is_shipped(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "worldsim/py.typed" in names
    wanted = {f"worldsim/{path.relative_to(ROOT / 'worldsim')}" for path in (ROOT / "worldsim").rglob("*.py")}
    for folder in SHIPPED[1:]:
        wanted |= {f"worldsim/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    wanted |= {f"worldsim/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    worlds = (ROOT / "assets" / "worlds").rglob("*")
    wanted |= {f"worldsim/{path.relative_to(ROOT)}" for path in worlds if path.is_file()}
    assert wanted <= names


def test_the_rooms_are_found_from_inside_the_checkout(python: Path, checkout: Path) -> None:
    assert run(python, "-c", PROBE, cwd=checkout).split() == [
        str(checkout / "worldsim" / "__init__.py"),
        str(checkout / "envs" / "__init__.py"),
    ]
    assert "worldsim <verb>" in run(python, "-m", "worldsim", "--help", cwd=checkout)


def test_the_rooms_are_found_from_anywhere_else(python: Path, tmp_path: Path) -> None:
    run(python, "-c", PROBE, cwd=tmp_path)
    assert "worldsim <verb>" in run(python.with_name("worldsim"), "--help", cwd=tmp_path)


def test_play_py_runs_in_the_checkout(python: Path, checkout: Path, tiny_world_folder: Path) -> None:
    out = run(
        python,
        "play.py",
        f"world={tiny_world_folder}",
        "headless=true",
        "frames=3",
        "unpaced=true",
        cwd=checkout,
    )
    assert "decisions" in out
