"""What every test gets: a home folder of its own, no display, and a tiny world when it asks for one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from worldsim.data.episodes import Dataset
    from worldsim.world import World

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
# Tiny networks gain nothing from a second thread, and lose all where another program has the core that it waits for.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own data and runs."""
    monkeypatch.setenv("WORLDSIM_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _own_chance() -> None:
    """A test that draws weights from PyTorch's global generator draws the same alone, and after whatever others."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained world with Pong's actions that ticks in no time. Do not write to it."""
    import torch

    from worldsim.actions import Action, ActionTable
    from worldsim.model.config import ModelConfig
    from worldsim.world import new_world, save_world

    actions = ActionTable(
        (
            Action("NOOP"),
            Action("FIRE", (("space",),)),
            Action("UP", (("up",), ("w",))),
            Action("DOWN", (("down",), ("s",))),
            Action("UPFIRE", (("up", "space"), ("w", "space"))),
            Action("DOWNFIRE", (("down", "space"), ("s", "space"))),
        )
    )
    sizes = {"dim": 32, "heads": 2, "encoder_layers": 2, "decoder_layers": 1, "decoder_width": 8, "window": 4}
    model = ModelConfig(len(actions), 80, 80, 10, **sizes)
    world = new_world("tiny", model, actions)
    with torch.no_grad():
        world.model.heads.end.bias.copy_(torch.tensor([9.0, -9.0]))  # or chance would say when it ends
    return save_world(world, tmp_path_factory.mktemp("worlds") / "tiny")


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Makes worlds with random weights in which every path matters: layers starting at zero are drawn too.

    Arguments are those of `ModelConfig`, and `settings` for `WorldConfig`. Starts have `length` frames of
    noise. Nothing ends and nothing scores unless `end` or `reward` say so.
    """
    import numpy as np
    import torch

    from worldsim.actions import Action, ActionTable
    from worldsim.model.config import ModelConfig
    from worldsim.world import Start, new_world

    keys = {"STAY": (), "LEFT": (("left",), ("a",)), "RIGHT": (("right",), ("d",)), "UP": (("up",),)}
    small = {"num_actions": 3, "height": 16, "width": 24, "dim": 32, "heads": 2, "window": 5}
    small |= {"encoder_layers": 2, "decoder_layers": 1, "decoder_width": 8, "margin": 1, "age_dim": 4, "reward_ages": 3}
    small |= {"recency": True, "past_actions": 2}

    def make(
        seed: int = 0, length: int = 3, end: bool = False, reward: int = 0, settings: Any = None, **size: Any
    ) -> World:
        if size.get("multiscale"):
            size["age_dim"] = 0
        config = ModelConfig(**small | size)
        table = ActionTable(tuple(Action(*item) for item in list(keys.items())[: config.num_actions]))
        random, size = np.random.default_rng(seed), (length, config.height, config.width, 3)
        starts = []
        for name in ("episode 0", "episode 1", "clip 0"):
            frames = random.integers(0, 256, size, np.uint8)
            starts.append(Start(name, frames, random.integers(0, len(table), length - 1)))
        world = new_world("tiny", config, table, seed=seed, starts=starts, **settings or {})
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in world.model.parameters():
                if not weight.any():
                    drawn = torch.randn(weight.shape, generator=generator)
                    weight.copy_(drawn * 0.5 / max(1, weight[0].numel()) ** 0.5)
            world.model.heads.end.bias.copy_(torch.tensor([-9.0, 9.0] if end else [9.0, -9.0]))
            world.model.heads.reward.bias.copy_(9 * torch.eye(3)[reward + 1])
        return world

    return make


@pytest.fixture(scope="session")
def tiny_world(make_world: Callable[..., World]) -> World:
    """A world of a few thousand weights: 16x24 frames, 3 actions, a window of 5, starts of 3 frames."""
    return make_world()


@pytest.fixture
def tiny_folder(tiny_world: World, tmp_path: Path) -> Path:
    """The tiny world on disk, to damage as you like."""
    from worldsim.world import save_world

    return save_world(tiny_world, tmp_path / "tiny")


@pytest.fixture(scope="session")
def pong_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six short episodes of real Pong, some held out."""
    from worldsim.data.collect import CollectConfig, collect

    folder = tmp_path_factory.mktemp("data") / "pong"
    config = CollectConfig(
        source="pong", steps=600, processes=1, seed=3, held_out=0.34, folder=str(folder), episode_steps=100
    )
    return collect(config, progress=False)


@pytest.fixture(scope="session")
def long_play(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six episodes of real Pong that are long enough to judge by, two of them held out."""
    pytest.importorskip("ale_py")
    from worldsim.data.collect import CollectConfig, collect

    folder = tmp_path_factory.mktemp("data") / "pong"
    config = CollectConfig(
        source="pong", steps=1300, processes=1, seed=5, held_out=0.34, folder=str(folder), episode_steps=220
    )
    return collect(config, progress=False)
