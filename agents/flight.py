"""What the scripted players of ball games measure with: 64ths of a frame, and walls that throw a ball back."""

from __future__ import annotations

from worldsim.envs.source_state import State


def in_64ths(state: State, pixels: int) -> State:
    """Positions in frames of ``pixels`` each way as those in frames of 64, which the players' measures are of."""
    scale = 64 / pixels
    return {
        name: (value + 0.5) * scale - 0.5 if name.endswith(("_x", "_y")) else value for name, value in state.items()
    }


def mirrored(position: float, low: float, high: float) -> float:
    """Where something is that flew to ``position``, had it not been thrown back by walls at low and high."""
    phase = (position - low) % (2 * (high - low))
    return low + min(phase, 2 * (high - low) - phase)
