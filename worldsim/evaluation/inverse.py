"""Inverse dynamics: which action was taken, read from a few frames; in the dream as in the real game?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.data.episodes import Dataset
from worldsim.evaluation.learning import Lesson, taught, training_windows
from worldsim.evaluation.nets import InverseNet, on_frames

FRAMES = 4  # obs[t-2] ... obs[t+1]: the paddle has momentum, so its speed before counts too
# Actions whose pictures are equal in this share of branches are one to the eye. On Pong it is 1.00 for NOOP and FIRE,
# UP and UPFIRE, DOWN and DOWNFIRE, and at most 0.33 (paddles at an edge) for any other two.
ALIKE = 0.7
AT_ONCE = 2  # ticks in which an action must show: later pictures also differ by what it led to


@dataclass(frozen=True)
class Effects:
    """Actions that look alike, as classes.

    Attributes:
        of: Class of each action.
        names: Of the classes, such as ``"NOOP/FIRE"``.
        first: One action of each class.
    """

    of: tuple[int, ...]
    names: tuple[str, ...]
    first: tuple[int, ...]


def effects(branches: NDArray[np.uint8], actions: Sequence[str]) -> Effects:
    """Group actions by what the real game shows when each is held from the same moments.

    Args:
        branches: Real frames uint8 [T, M, A, H, W, 3] of A actions from M moments.
        actions: Their names.
    """
    early = branches[:AT_ONCE]
    of: list[int] = []
    first: list[int] = []
    for action in range(early.shape[2]):
        for number, other in enumerate(first):
            same = (early[:, :, action] == early[:, :, other]).all(axis=(0, 2, 3, 4))
            if same.mean() >= ALIKE:
                of.append(number)
                break
        else:
            of.append(len(first))
            first.append(action)
    names = tuple("/".join(actions[a] for a, c in enumerate(of) if c == number) for number in range(len(first)))
    return Effects(tuple(of), names, tuple(first))


class InverseDynamics:
    """Tells the kind of action from frames; taught on real training episodes only.

    Args:
        dataset: The recording.
        kinds: Actions that look alike.
        lesson: How to teach.
    """

    def __init__(self, dataset: Dataset, kinds: Effects, lesson: Lesson) -> None:
        source = dataset.config["source"]
        height, width = int(source["height"]), int(source["width"])
        self.kinds = kinds
        self._class = np.array(kinds.of)
        data: list[Tensor] = []

        def samples(net: InverseNet) -> int:
            windows = training_windows(dataset, FRAMES, lesson)
            data.extend((torch.from_numpy(windows.frames), torch.from_numpy(self._class[windows.actions])))
            net.trunk.set_mean(data[0])
            return len(data[0])

        def loss(net: InverseNet, rows: Tensor) -> Tensor:
            return F.cross_entropy(net(data[0][rows]), data[1][rows])

        def make() -> InverseNet:
            return InverseNet(height, width, FRAMES, len(kinds.names))

        self._net = taught(
            make, loss, samples, lesson, dataset, "inverse", {"classes": list(kinds.of), "frames": FRAMES}
        )

    def classes(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes of actions, of the same shape."""
        return self._class[actions]

    def read(self, frames: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Class of the action that led to each frame but the first ``FRAMES - 1``.

        Args:
            frames: Roll-outs uint8 [T, N, H, W, 3].

        Returns:
            int64 [T - FRAMES + 1, N].
        """
        answers = []
        for column in np.moveaxis(frames, 1, 0):
            windows = torch.from_numpy(np.ascontiguousarray(column)).unfold(0, FRAMES, 1).movedim(-1, 1)
            answers.append(on_frames(self._net, windows)[0].argmax(-1).numpy())
        return np.stack(answers, 1)


def accuracy(said: NDArray[np.int64], true: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Share of right answers, overall and by class."""
    right = said == true
    by_class = {
        name: float(right[true == i].mean()) if (true == i).any() else float("nan") for i, name in enumerate(names)
    }
    return {"overall": float(right.mean()), "by_class": by_class}
