"""Designs side by side: whatever makes a game's frames tick by tick, behind one surface.

An action is taken, a frame is shown; what lies between the two differs. A frame-causal design shows the action in the
very next frame. One that makes k frames together waits for the actions of all of them, and one that denoises a moving
buffer of n frames lets n - 1 older ones out first. Such a design runs behind the game: at first it shows the last
frames of its start once more. Delays are in ticks, 1 for the next frame.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.engine.buffer import Stream
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.session import Session
from worldsim.engine.together import Chunks, Clips, Starts
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT
from worldsim.start import Start
from worldsim.world import World


class FrameGenerator(Protocol):
    """A design at work on some rows.

    Attributes:
        own_delay: Ticks from an action to the frame that is conditioned on it. The first ``own_delay - 1`` frames are
            the start's last ones.
    """

    own_delay: int

    def prime(self, start: Starts, seed: int) -> None:
        """Begin all rows at a start, or each at its own; row i draws its noise from ``seed + i``."""
        ...

    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The next frame of every row, uint8 [B, H, W, 3], when ``actions`` [B] are taken now."""
        ...

    def commit(self) -> None:
        """What can be done once the frame is shown."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def open_world(
    world: World,
    rows: int = 1,
    *,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    backend: str = "eager",
) -> FrameGenerator:
    """A world at work, whatever its design; settings are those of a :class:`Session`."""
    if world.config.design == SEPARABLE:
        return Separable(Session(world, rows, steps=steps, device=device, dtype=dtype, backend=backend))
    there, design = pick_device(device), Design.parse(world.config.design)
    network = world.network_on(there, pick_dtype(dtype, there))
    assert isinstance(network, DiT)
    steps, shift = steps or world.config.steps, world.config.shift
    return open_design(design, network, world.config.model, rows, steps, shift, backend)


def open_design(
    design: Design,
    model: DiT,
    config: ModelConfig,
    batch: int,
    steps: int,
    shift: float = 1.0,
    backend: str = "eager",
) -> FrameGenerator:
    """A design at work.

    Args:
        design: What it is.
        model: Its network, as :meth:`Design.make` gives it, in eval mode, on its device and in its dtype.
        config: Of the world, whose memory says how many clean frames go along.
        batch: Rows.
        steps: Denoising steps of a frame at least; a frame of a buffer has a whole number of them in each tick.
        shift: Of their noise levels, see :func:`~worldsim.engine.sampler.levels`.
        backend: See :data:`~worldsim.engine.backends.BACKENDS`.
    """
    reference = design.reference(config)
    if design.kind == "dit":
        return Chunks(model, batch, steps, shift, backend)
    if design.kind == "clip":
        return Clips(model, batch, design.frames, reference, steps, shift, backend)
    return Stream(model, batch, design.frames, reference, -(-steps // design.frames), shift, backend)


class Separable:
    """Separable Causal Diffusion (arXiv 2602.10095), as the engine plays it: a :class:`Session`."""

    own_delay = 1

    def __init__(self, session: Session) -> None:
        self._session = session

    def prime(self, start: Starts, seed: int) -> None:
        """See :class:`FrameGenerator`."""
        self._session.reset(start=start if isinstance(start, Start) else list(start), seed=seed)

    def render(self, actions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :class:`FrameGenerator`."""
        return self._session.render(actions)

    def commit(self) -> None:
        """See :class:`FrameGenerator`."""
        self._session.commit()

    def close(self) -> None:
        """See :class:`FrameGenerator`."""
        self._session.close()
