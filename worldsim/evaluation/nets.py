"""The two small networks that judge a world. They never see a dream while they learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 64


class FrameTrunk(nn.Module):
    """A few frames side by side to ``FEATURES`` numbers: 4x4 patches, two 3x3 convolutions, one linear map.

    It looks at the last frame's difference from a mean picture and at the differences between frames. Raw pixels of a
    game that is nearly all background teach it nothing: its units die, and it answers the commonest class.
    """

    mean: Tensor

    def __init__(self, height: int, width: int, frames: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(height, width, 3))
        self.patches = nn.Conv2d(3 * frames, 32, 4, stride=4)
        self.mix = nn.Conv2d(32, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        cells = -(-(height // 4) // 2) * -(-(width // 4) // 2)
        self.features = nn.Linear(64 * cells, FEATURES)

    def set_mean(self, frames: Tensor) -> None:
        """Take the mean picture of frames uint8 [..., H, W, 3]."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        self.mean.copy_(flat[:: max(1, len(flat) // 1000)].float().mean(0))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames uint8 [N, F, H, W, 3] to features [N, FEATURES]."""
        n, count, height, width, _ = frames.shape
        x = (frames.float() - self.mean) / 64
        x = torch.cat((x[:, 1:] - x[:, :-1], x[:, -1:]), 1)
        x = x.permute(0, 1, 4, 2, 3).reshape(n, 3 * count, height, width)
        x = F.relu(self.patches(x))
        x = F.relu(x + self.mix(x))
        x = F.relu(self.down(x))
        return F.relu(self.features(x.flatten(1)))


class StateNet(nn.Module):
    """One frame to the positions of its objects and whether each is there.

    Args:
        height, width: Of a frame.
        positions: State columns such as ``ball_x``.
        objects: What the columns belong to.
    """

    def __init__(self, height: int, width: int, positions: Sequence[str], objects: Sequence[str]) -> None:
        super().__init__()
        self.trunk = FrameTrunk(height, width, 1)
        self.position = nn.Linear(FEATURES, len(positions))
        self.presence = nn.Linear(FEATURES, len(objects))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames uint8 [N, H, W, 3] to positions in pixels [N, P], presence logits [N, K], features [N, FEATURES]."""
        features = self.trunk(frames[:, None])
        return 32 + 32 * self.position(features), self.presence(features), features


class InverseNet(nn.Module):
    """Which action was taken before the last of a few frames in a row.

    Args:
        height, width: Of a frame.
        frames: How many; the action was taken at the last but one.
        classes: Kinds of actions that can be told apart.
    """

    def __init__(self, height: int, width: int, frames: int, classes: int) -> None:
        super().__init__()
        self.trunk = FrameTrunk(height, width, frames)
        self.out = nn.Linear(FEATURES, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames uint8 [N, F, H, W, 3] to logits [N, classes]."""
        logits: Tensor = self.out(self.trunk(frames))
        return logits


def on_frames(net: nn.Module, frames: Tensor, chunk: int = 512) -> list[Tensor]:
    """A network's answers for any number of frames, in evaluation mode, a chunk at a time."""
    answers: list[list[Tensor]] = []
    with torch.inference_mode():
        for part in frames.split(chunk):
            out = net(part)
            answers.append(list(out) if isinstance(out, tuple) else [out])
    return [torch.cat(column) for column in zip(*answers, strict=True)]
