"""What ways to teach a decoder share: the moments that are learned from, and what they call a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldsim.model.decoder import FrameDecoder, without_margin
from worldsim.model.world_model import WorldModel
from worldsim.training.loss import attention


@dataclass(frozen=True)
class Begun:
    """What roll-outs began from.

    Attributes:
        frames: Recorded ones, patches [B, W, L, P] as they were shown.
        led: int64 [B, W], the action that led to each; ``num_actions`` for a clip's first.
    """

    frames: Tensor
    led: Tensor


@dataclass(frozen=True)
class Moments:
    """The frames of a step's clips, flattened, each with what is needed to make the next one.

    Attributes:
        step: Of the run.
        context: [N, L, D].
        last: Views [N, L, V].
        cue: int64 [N], see :func:`~worldsim.model.cue.cues`.
        real: The recorded frames that follow, patches [N, L, P].
        noise: Draws of standard normal noise, [N, L, P] each.
        levels: As many draws of noise levels, [N] each.
        worth: float32 [N], 1 in the mean: weights of the frames in every loss.
        rolled: What the frames' roll-outs began from, where that is what they are: all roll-outs' frame of a tick, then
            those of the next, N = K B.
    """

    step: int
    context: Tensor
    last: Tensor
    cue: Tensor
    real: Tensor
    noise: Sequence[Tensor]
    levels: Sequence[Tensor]
    worth: Tensor
    rolled: Begun | None = None

    def begun(self) -> Begun:
        """:attr:`rolled`, which is there."""
        assert self.rolled is not None
        return self.rolled

    def mean(self, errors: Tensor) -> Tensor:
        """The mean of frames' errors [N], each by its worth."""
        return (self.worth * errors).mean()


def weighted_error(made: Tensor, wanted: Tensor, last: Tensor, model: WorldModel, weight: float) -> Tensor:
    """Squared errors [N] of made frames, weighted by :func:`~worldsim.training.loss.attention`.

    Args:
        made, wanted: Patches [N, L, P].
        last: Views [N, L, V] of the frames before.
        model: Says how patches and views lie.
        weight: Of what moves.
    """
    c = model.config
    shown, change = (without_margin(part, c) for part in last[..., : 2 * c.seen_dim].split(c.seen_dim, -1))
    weights = attention(c, shown - change, shown, made, weight)
    return ((made.float() - wanted.float()).square() * weights).mean((1, 2))


class Method(ABC):
    """One way to make a student of a teacher.

    Attributes:
        networks: What learns, by name; ``"student"`` is the decoder of the world that comes out.
    """

    networks: Mapping[str, nn.Module]

    @abstractmethod
    def losses(self, moments: Moments) -> Iterator[tuple[str, Tensor]]:
        """Losses of one step, each with the name of the network that is to be moved down it before the next is asked
        for.
        """


class Encode(nn.Module):
    """Contexts and views of all frames but the last of clips' patches [B, T, L, P], flattened."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, seen: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:  # -> [N, L, D], [N, L, V]
        views = self.model.views(seen)
        context = self.model.encode(views, previous, torch.zeros_like(previous))
        return context[:, :-1].flatten(0, 1), views[:, :-1].flatten(0, 1)


class Denoise(nn.Module):
    """A decoder's guess of x0."""

    def __init__(self, decoder: FrameDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, cue: Tensor, size: Tensor | None = None
    ) -> Tensor:
        made: Tensor = self.decoder(noisy, t, context, last, cue, size)
        return made
