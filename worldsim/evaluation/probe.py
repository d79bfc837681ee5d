"""A small network that reads the source's own state from a picture: the way to judge a game without known colours.

Its features also say, as a Frechet distance, how far a set of dreamed pictures is from real ones.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.data.episodes import Dataset
from worldsim.evaluation.learning import Lesson, Windows, fresh, taught, training_windows
from worldsim.evaluation.nets import StateNet, on_frames
from worldsim.vision.reading import Reading, Readings


class StateProbe:
    """Reads positions and presence, and gives features.

    A source without a state has an untaught probe, which sees no objects; random features still tell sets of pictures
    apart.

    Args:
        dataset: Its training episodes teach the network; the network is kept.
        lesson: How.
    """

    name = "probe"
    counts = False

    def __init__(self, dataset: Dataset, lesson: Lesson) -> None:
        source = dataset.config["source"]
        self._height, self._width = int(source["height"]), int(source["width"])
        state = dataset.load(dataset.train[0]).state
        self.positions = tuple(name for name in state if name.endswith(("_x", "_y")))
        self.objects = tuple(dict.fromkeys(name[:-2] for name in self.positions))
        data: list[Any] = []

        def make() -> StateNet:
            return StateNet(self._height, self._width, self.positions, self.objects)

        def samples(net: StateNet) -> int:
            windows = training_windows(dataset, 1, lesson)
            frames = torch.from_numpy(windows.frames[:, 0])
            net.trunk.set_mean(frames)
            data.extend((frames, *self._targets(windows)))
            return len(frames)

        def loss(net: StateNet, rows: Tensor) -> Tensor:
            frames, places, seen, there = (column[rows] for column in data)
            guess, logits, _ = net(frames)
            # Absent objects have no place to learn; 32 pixels are the unit of the network's output.
            error = (F.smooth_l1_loss(guess, places, reduction="none") * there).sum() / there.sum().clamp(min=1)
            return error / 32 + 0.1 * F.binary_cross_entropy_with_logits(logits, seen)

        if self.positions:
            about = {"positions": list(self.positions)}
            self._net = taught(make, loss, samples, lesson, dataset, "state", about)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # PyTorch's, of heads without outputs
                self._net = fresh(make).eval().requires_grad_(False)

    def read(self, frames: NDArray[np.uint8]) -> Readings:
        """See :class:`~worldsim.vision.reading.Reader`; an axis that the state does not have reads as 0."""
        lead = frames.shape[:-3]
        places, logits, _ = on_frames(self._net, torch.from_numpy(frames.reshape(-1, *frames.shape[-3:])))
        seen = (logits > 0).numpy()
        columns = {name: places[:, i].numpy() for i, name in enumerate(self.positions)}
        nothing = np.zeros(len(places), np.float32)
        readings = {}
        for i, name in enumerate(self.objects):
            x, y = (np.where(seen[:, i], columns.get(f"{name}_{axis}", nothing), np.nan) for axis in "xy")
            there = seen[:, i]
            reading = Reading(
                there.astype(np.int64), there.astype(np.float32), x.astype(np.float32), y.astype(np.float32)
            )
            readings[name] = reading.reshape(*lead)
        return readings

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [N, D] of frames [..., H, W, 3]."""
        flat = np.ascontiguousarray(frames.reshape(-1, *frames.shape[-3:]))
        return on_frames(self._net, torch.from_numpy(flat))[2].numpy()

    def _targets(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [N, P] (0 where absent), presence by object [N, K], and presence by position [N, P]."""
        places = np.stack([windows.state[name] for name in self.positions], 1)
        there = ~np.isnan(places)
        seen = np.stack([there[:, [p[:-2] == name for p in self.positions]].all(1) for name in self.objects], 1)
        return (
            torch.from_numpy(np.nan_to_num(places)),
            torch.from_numpy(seen.astype(np.float32)),
            torch.from_numpy(there.astype(np.float32)),
        )
