"""Teaching the judging networks on real training episodes, once for a data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from worldsim.data.episodes import Dataset
from worldsim.settings import home

RECIPE = 2  # raise it when networks or training change: kept networks are then made anew
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Lesson:
    """How a judging network is taught.

    Attributes:
        samples: Windows of frames drawn from training episodes.
        episodes: From so many of them.
        steps: Of Adam, on 64 windows each.
        learning_rate: At first; it falls to 0 along a cosine.
    """

    samples: int = 12_000
    episodes: int = 40
    steps: int = 1500
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.samples, self.episodes, self.steps) < 1 or not self.learning_rate > 0:
            raise ValueError("lesson: samples, episodes and steps must be 1 or more and learning_rate above 0")


@dataclass(frozen=True, eq=False)
class Windows:
    """Short stretches of recorded play.

    Attributes:
        frames: uint8 [N, F, H, W, 3].
        actions: int64 [N], taken at the last but one frame.
        state: The source's state at the last frame, float32 [N] each.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    state: dict[str, NDArray[np.float32]]


def training_windows(dataset: Dataset, length: int, lesson: Lesson, seed: int = 0) -> Windows:
    """Windows of ``length`` frames from the training episodes, spread evenly; the same for the same seed."""
    rng = np.random.default_rng((seed, 7003))
    infos = [info for info in dataset.train if info.steps >= length] or list(dataset.train)
    chosen = [infos[i] for i in sorted(rng.permutation(len(infos))[: lesson.episodes].tolist())]
    total = sum(info.steps + 2 - length for info in chosen)
    frames, actions, state = [], [], []
    for info in chosen:
        episode = dataset.load(info)
        here = info.steps + 2 - length
        count = min(here, max(1, round(lesson.samples * here / total)))
        for last in sorted((rng.permutation(here)[:count] + length - 1).tolist()):
            frames.append(episode.frames[last + 1 - length : last + 1])
            actions.append(int(episode.actions[last - 1]))
            state.append([float(column[last]) for column in episode.state.values()])
    names = list(episode.state)
    columns = np.array(state, np.float32).reshape(len(actions), len(names))
    table = {name: columns[:, i] for i, name in enumerate(names)}
    return Windows(np.stack(frames), np.array(actions, np.int64), table)


def taught(
    make: Callable[[], Net],
    loss: Callable[[Net, Tensor], Tensor],
    samples: Callable[[Net], int],
    lesson: Lesson,
    dataset: Dataset,
    kind: str,
    about: dict[str, Any],
) -> Net:
    """A network from the shelf, or taught now and put there.

    Args:
        make: Gives the untrained network.
        loss: Of the samples with the given numbers.
        samples: Gets the samples, and the network, ready and says how many there are; not called if the network is on
            the shelf.
        lesson: How to teach.
        dataset: What it is taught on.
        kind: Name for the shelf.
        about: What else makes this network another one.
    """
    identity = {"recipe": RECIPE, "lesson": vars(lesson), "data": fingerprint(dataset), **about}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = home() / "probes" / str(dataset.config["source"]["name"]) / f"{kind}-{digest}.safetensors"
    net = fresh(make)
    if path.is_file():
        try:
            net.load_state_dict(load_file(path))
            return net.eval().requires_grad_(False)
        except (SafetensorError, RuntimeError, OSError):
            pass  # truncated or foreign: made anew below
    _teach(net, loss, samples(net), lesson, kind)
    _keep(net, path)
    return net.eval().requires_grad_(False)


def fresh(make: Callable[[], Net]) -> Net:
    """An untaught network, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the training episodes' own."""
    return hashlib.sha256("".join(info.sha256 for info in dataset.train).encode()).hexdigest()


def _teach(net: Net, loss: Callable[[Net, Tensor], Tensor], count: int, lesson: Lesson, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lesson.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, lesson.steps)
    net.train()
    for _ in tqdm(range(lesson.steps), desc=f"teach the {kind} network", leave=False, disable=None):
        optimizer.zero_grad(set_to_none=True)
        loss(net, torch.randint(count, (64,), generator=generator)).backward()
        optimizer.step()
        schedule.step()


def _keep(net: nn.Module, path: Path) -> None:
    """A shelf that cannot be written is no reason to fail: the network is taught again next time."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), part)
        os.replace(part, path)
    except (OSError, SafetensorError):
        part.unlink(missing_ok=True)
