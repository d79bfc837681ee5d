"""Distribution matching distillation of the frame-wise decoder.

A separable model has its history in an encoder that no denoising step touches. So only the decoder is distilled:
teacher, student and critic are three decoders on one frozen encoder, and what is matched is the distribution of the
next frame given the student's own history.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.model.decoder import FrameDecoder
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.teaching import Denoise, Method, Moments, weighted_error


def exit_frames(
    decoder: FrameDecoder, context: Tensor, last: Tensor, cue: Tensor, noise: Tensor, at: Sequence[float]
) -> Tensor:
    """Frames that the decoder makes in the steps of a sampler, with the gradient of the last step only.

    One exit step of a roll-out's few carries the gradient (Self-Forcing, arXiv 2506.08009, algorithm 1).

    Args:
        decoder: The student.
        context, last: Of the frames before [N, L, D] and [N, L, V].
        cue: int64 [N], see :func:`~worldsim.model.cue.cues`.
        noise: Standard normal [N, L, P].
        at: Falling noise levels from 1 to that of the exit step.

    Returns:
        x0 [N, L, P].
    """
    scene, x = decoder.scene(context, last), noise

    def x0(level: float, scene: Tensor) -> Tensor:
        t = torch.full_like(cue, 1, dtype=noise.dtype) * level
        return decoder.denoise(x, scene, decoder.modulations(t, cue))

    with torch.no_grad():
        for t, s in zip(at[:-1], at[1:], strict=True):
            made = x0(t, scene.detach())
            x = made + (s / t) * (x - made)
    return x0(at[-1], scene)


def matching_loss(made: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Moves made frames along the difference of two predictions of x0 (DMD, arXiv 2311.18828, equations 7 and 8).

    The difference of scores at a noise level is, up to a weight, that of the frames which teacher and critic see in
    the noised frame. The weight is one: dividing by each frame's distance to the teacher, as the paper does, would make
    much of frames in which nothing happens.

    Args:
        made: The student's frames [N, L, P], with gradient.
        real, fake: What the teacher and the critic take them for.

    Returns:
        Of each frame a number [N] whose gradient with respect to it is the mean of ``fake - real``.
    """
    toward = (made.float() - (fake.float() - real.float())).detach()
    return 0.5 * (made.float() - toward).square().mean((1, 2))


class Matching(Method):
    """Distribution matching with a critic that learns at a faster time scale (DMD2, arXiv 2405.14867).

    Args:
        student: Its decoder learns.
        critic: Learns what the student makes.
        computer: Of everything.
        at: Noise levels of the student's sampler, see :func:`~worldsim.engine.sampler.levels`.
        critic_steps: Of the critic, for each of the student's.
        head_start: Steps in which only the critic learns.
        seed: Of the exit steps.
    """

    def __init__(
        self,
        student: WorldModel,
        critic: nn.Module,
        computer: Computer,
        *,
        at: Sequence[float],
        critic_steps: int,
        head_start: int,
        seed: int,
    ) -> None:
        self.networks = {"student": student.decoder, "critic": critic}
        self._critic_steps, self._head_start, self._seed = critic_steps, head_start, seed
        self._make = [computer.computed(Exit(student.decoder, at[: k + 1])) for k in range(len(at) - 1)]

    @abstractmethod
    def judged(self, made: Tensor, moments: Moments, draw: int) -> tuple[Tensor, Tensor]:
        """What teacher and critic take made frames [N, L, P] for, noised by one of the moments' draws."""

    @abstractmethod
    def critic_loss(self, made: Tensor, moments: Moments, draw: int) -> Tensor:
        """The critic's error on made frames [N, L, P], noised by one of the moments' draws."""

    def losses(self, moments: Moments) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Method`: the critic's, then the student's. One of the moments' draws is what frames are made of,
        one is for the student's loss, and the others are for the critic's.
        """
        m = moments
        k = int(np.random.default_rng((self._seed, m.step)).integers(len(self._make)))
        made = self.make(k, m.context, m.last, m.cue, m.noise[0])
        for draw in range(2, 2 + self._critic_steps):
            yield "critic", self.critic_loss(made.detach(), m, draw)
        if m.step >= self._head_start:
            yield "student", m.mean(matching_loss(made, *self.judged(made.detach(), m, 1)))

    def make(self, k: int, context: Tensor, last: Tensor, cue: Tensor, noise: Tensor) -> Tensor:
        """The student's frames [N, L, P] after k + 1 steps; see :func:`exit_frames`."""
        made: Tensor = self._make[k](context, last, cue, noise)
        return made


class DMD(Matching):
    """The next frame's distribution: teacher and critic are decoders on the encoder that the student has.

    Args:
        teacher: Whole and frozen; its encoder is everybody's.
        student: Shares the encoder; its decoder learns.
        computer: Of everything.
        at: Noise levels of the student's sampler.
        weight: Of pixels that move in the critic's loss.
        critic_steps, head_start, seed: See :class:`Matching`.
    """

    def __init__(
        self,
        teacher: WorldModel,
        student: WorldModel,
        computer: Computer,
        *,
        at: Sequence[float],
        weight: float = 16.0,
        critic_steps: int = 2,
        head_start: int = 0,
        seed: int = 0,
    ) -> None:
        critic = copy.deepcopy(teacher.decoder).requires_grad_(True).train()
        super().__init__(
            student, critic, computer, at=at, critic_steps=critic_steps, head_start=head_start, seed=seed
        )
        sees, doubts = Denoise(teacher.decoder), Denoise(critic)

        @torch.no_grad()
        def judge(*given: Tensor) -> tuple[Tensor, Tensor]:
            return computer.call(sees, *given), computer.call(doubts, *given)

        self._judge = computer.built(judge)
        self._critic_errors = computer.computed(_CriticLoss(critic, teacher, weight))

    def judged(self, made: Tensor, moments: Moments, draw: int) -> tuple[Tensor, Tensor]:
        """See :class:`Matching`."""
        m, t = moments, moments.levels[draw]
        real, fake = self._judge(
            torch.lerp(made, m.noise[draw], t[:, None, None]), t, m.context, m.last, m.cue
        )
        return real, fake

    def critic_loss(self, made: Tensor, moments: Moments, draw: int) -> Tensor:
        """See :class:`Matching`."""
        m = moments
        return m.mean(self._critic_errors(made, m.context, m.last, m.cue, m.levels[draw], m.noise[draw]))


class Exit(nn.Module):
    """:func:`exit_frames` of a decoder, as a module."""

    def __init__(self, decoder: FrameDecoder, at: Sequence[float]) -> None:
        super().__init__()
        self.decoder, self.at = decoder, tuple(at)

    def forward(self, context: Tensor, last: Tensor, cue: Tensor, noise: Tensor) -> Tensor:
        return exit_frames(self.decoder, context, last, cue, noise, self.at)


class _CriticLoss(nn.Module):
    def __init__(self, critic: FrameDecoder, model: WorldModel, weight: float) -> None:
        super().__init__()
        self.critic, self.weight = critic, weight
        self.layout = [model]  # for where patches lie; not a part of this module

    def forward(self, made: Tensor, context: Tensor, last: Tensor, cue: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        noisy = torch.lerp(made, noise, t[:, None, None])
        x0 = self.critic(noisy, t, context, last, cue)
        return weighted_error(x0, made, last, self.layout[0], self.weight)
