"""What a frame is told beside its past: the action, and how long ago the last reward was.

A game may do something a certain time after a reward, with nothing to see until then: Pong serves 32 ticks after a
point. The ages of rewards are known to whoever keeps the score, so the decoder is told instead of having to remember
(docs/experiments/2026-11-27-eighteenth-pong.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.model.config import ModelConfig


def since_rewards(rewards: NDArray[np.floating[Any]] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The last reward at every frame of an episode: its sign times the ticks since, 1 at the frame that it came with.

    Args:
        rewards: [T], of the transitions between T + 1 frames.

    Returns:
        int64 [T + 1]; 0 before the first reward.
    """
    signs = np.sign(np.concatenate((np.zeros(1, rewards.dtype), rewards))).astype(np.int64)
    ticks = np.arange(len(signs))
    last = np.maximum.accumulate(np.where(signs != 0, ticks, 0))
    return signs[last] * (ticks - last + 1)


def tick_later(since: Tensor, sign: Tensor) -> Tensor:
    """What :func:`since_rewards` tells a tick later, when the reward of that tick had this sign; both int64 [...]."""
    return torch.where(sign != 0, sign, since + since.sign())


def cues(actions: Tensor, since: Tensor, config: ModelConfig) -> Tensor:
    """Action and last reward as one number, by which the decoder's modulations can be looked up.

    Args:
        actions: int64 [...], taken at a frame.
        since: int64 [...], see :func:`since_rewards`, at the same frame.
        config: Says how old a reward may be to be told of; with ``reward_ages=0`` a cue is its action.

    Returns:
        int64 [...] in [0, ``config.cues``): the action, plus ``num_actions`` for each tick of a negative reward's age,
        plus ``num_actions * reward_ages`` more for a positive one.
    """
    ages = config.reward_ages
    if not ages:
        return actions
    age = torch.where(since > 0, since + ages, -since)
    return actions + config.num_actions * torch.where(since.abs() <= ages, age, 0)
