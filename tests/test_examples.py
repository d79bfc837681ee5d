"""The examples run, each as a person would start it, with the smallest settings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "vector.py": (["--envs", "3", "--steps", "5"], None, "all rows equal after a copy: True"),
    "wrappers.py": (["--steps", "5"], None, "(4, 16, 24) uint8"),
    "stable_baselines.py": (["--envs", "2", "--steps", "16", "--rollout", "8"], "stable_baselines3", "total_timesteps"),
    "torchrl_rollout.py": (["--steps", "3"], "torchrl", "TensorDict"),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(tiny_folder: Path, name: str) -> None:
    arguments, package, shown = EXAMPLES[name]
    if package and not importlib.util.find_spec(package):
        pytest.skip("pip install 'worldsim[rl]'")
    command = [sys.executable, str(ROOT / "examples" / name), "--world", str(tiny_folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
