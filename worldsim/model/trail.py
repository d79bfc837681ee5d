"""The actions that led to a frame as one number: the last one alone, or some before it too.

What obeys a key may do so late and gather speed: four frames of Pong and the action before them leave the player's
paddle wrong by more than a pixel in one tick of 200, which is one second in seven; told two more actions, in one of
2500 (docs/experiments/2026-11-29-twenty-seventh-pong.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.model.config import ModelConfig


def no_trail(config: ModelConfig) -> int:
    """The trail where no action came before; with ``past_actions=1`` it is ``num_actions``."""
    return int((config.num_actions + 1) ** config.past_actions) - 1


def after(trail: Tensor, action: Tensor, config: ModelConfig) -> Tensor:
    """The trail when one more action was taken; both int64 [...]. With ``past_actions=1`` it is that action."""
    base = config.num_actions + 1
    return (trail * base + action) % base**config.past_actions


def trails(actions: Tensor, config: ModelConfig) -> Tensor:
    """The trail at every frame of a clip.

    Args:
        actions: int64 [B, T-1], taken after its frames but the last.
        config: Says how many actions are told.

    Returns:
        int64 [B, T]; before the first frame no action was taken.
    """
    led = [actions.new_full((len(actions),), no_trail(config))]
    for action in actions.unbind(1):
        led.append(after(led[-1], action, config))
    return torch.stack(led, 1)


def told(trail: Tensor, config: ModelConfig) -> list[Tensor]:
    """The actions of a trail [...], the newest first; ``num_actions`` where there was none."""
    base = config.num_actions + 1
    return [torch.div(trail, base**age, rounding_mode="floor") % base for age in range(config.past_actions)]
