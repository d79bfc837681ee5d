"""What an environment shows of a session: its frames, grey ones, or what the encoder makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.world import World

#: Of red, green and blue: those of ``gymnasium.wrappers.GrayscaleObservation``, so that both show the same.
LUMA = (0.2125, 0.7154, 0.0721)
POOLED = 4  #: Rows and columns of pooled tokens, at most


class Observer:
    """Turns the frames that a session shows into observations.

    Args:
        world: What the session runs.
        kind: ``"rgb"``: uint8 [H, W, 3]. ``"gray"``: uint8 [H, W]. ``"latent"``: the encoder's tokens of the frame,
            averaged over the token grid to at most 4 rows and columns, float32 [4, 4, D]: all history is in them, so
            that a policy on them needs no stack of frames.

    Attributes:
        space: Of one row's observation.

    Raises:
        WorldsimError: there is no such kind.
    """

    def __init__(self, world: World, kind: str) -> None:
        makers: dict[str, Callable[[Session, Tensor], Tensor]] = {
            "rgb": lambda _, frames: frames,
            "gray": lambda _, frames: grey(frames),
            "latent": lambda session, _: self.pool(session.context),
        }
        if kind not in makers:
            raise WorldsimError(f"obs_type {kind!r} is not one of {', '.join(makers)}")
        self._make = makers[kind]
        c = world.config.model
        self._grid = c.rows, c.columns
        self._pooled = min(POOLED, c.rows), min(POOLED, c.columns)
        size = c.height, c.width
        boxes: dict[str, spaces.Box[Any]] = {
            "rgb": spaces.Box(0, 255, (*size, 3), np.uint8),
            "gray": spaces.Box(0, 255, size, np.uint8),
            "latent": spaces.Box(-np.inf, np.inf, (*self._pooled, c.dim), np.float32),
        }
        self.space = boxes[kind]

    def tensor(self, session: Session, frames: Tensor) -> Tensor:
        """Observations [B, ...] of the frames uint8 [B, H, W, 3] that a session has committed, on their device."""
        return self._make(session, frames)

    def array(self, session: Session, frames: NDArray[np.uint8]) -> NDArray[Any]:
        """The same of frames on the host."""
        made: NDArray[Any] = self._make(session, torch.from_numpy(frames)).cpu().numpy()
        return made

    def pool(self, context: Tensor) -> Tensor:
        """Tokens [B, L, D], averaged to float32 [B, 4, 4, D] at most."""
        grid = context.float().unflatten(1, self._grid).permute(0, 3, 1, 2)  # [B, D, rows, columns]
        return F.adaptive_avg_pool2d(grid, self._pooled).permute(0, 2, 3, 1).contiguous()


def grey(frames: Tensor) -> Tensor:
    """uint8 [..., 3] to uint8 [...], rounded down."""
    return (frames.double() @ frames.new_tensor(LUMA, dtype=torch.float64)).to(torch.uint8)
