"""Asymmetric distillation: a causal student of a teacher that sees whole clips (CausVid, arXiv 2412.07772, section 4).

The student makes frame after frame; whether they are likely is judged by a network that sees several of them at once,
in both directions. What a frame cannot know of those after it, the judge does: a ball that jumps between two frames,
each of which is a good one given the last, is unlikely.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.dmd import Matching
from worldsim.training.distillation.teaching import Moments
from worldsim.training.forcing import Forcing


@dataclass(frozen=True)
class Stretches:
    """Roll-outs cut into stretches, each as many frames as the teacher makes together, with the frames before them.

    Attributes:
        reference: Frames before them that the teacher is given.
        together: Frames that it makes together.
    """

    reference: int
    together: int

    def check(self, begun: int, made: int) -> None:
        """Raise RunError unless roll-outs of ``made`` frames after ``begun`` recorded ones can be cut."""
        if made % self.together or begun < self.reference:
            raise RunError(
                f"roll-outs of {made} frames after {begun} do not part into {self.together} after {self.reference}: "
                "give another clip=, or a teacher of another design"
            )

    def cut(self, before: Tensor, made: Tensor) -> Tensor:
        """What belongs to frames, in stretches.

        Args:
            before: Of the frames that roll-outs begin with [B, W, ...].
            made: Of those that were made [K * B, ...], tick by tick.

        Returns:
            [B * K / together, reference + together, ...].
        """
        rows, begun = before.shape[:2]
        frames = torch.cat((before, made.unflatten(0, (-1, rows)).transpose(0, 1)), 1)
        first = range(begun - self.reference, frames.shape[1] - self.reference, self.together)
        size = self.reference + self.together
        return torch.stack([frames[:, at : at + size] for at in first], 1).flatten(0, 1)

    def joined(self, stretches: Tensor, rows: int) -> Tensor:
        """Of stretches' last frames [B * K / together, together, ...] to [K * B, ...], tick by tick."""
        return stretches.unflatten(0, (rows, -1)).flatten(1, 2).transpose(0, 1).flatten(0, 1)


class AsymmetricDMD(Matching):
    """Distribution matching of roll-outs, judged over clips.

    Args:
        student: Its decoder learns, on roll-outs of its own.
        teacher: Of design ``clip``, frozen; the critic begins as a copy of it.
        forcing: Of the teacher's design: the critic is taught as the teacher was.
        computer: Of everything.
        at, critic_steps, head_start, seed: See :class:`~worldsim.training.distillation.dmd.Matching`.
        weight: Of pixels that move in the critic's loss.

    Raises:
        RunError: the teacher is of another design, or of another game.
    """

    def __init__(
        self,
        student: WorldModel,
        teacher: DiT,
        forcing: Forcing,
        computer: Computer,
        *,
        at: Sequence[float],
        weight: float = 16.0,
        critic_steps: int = 2,
        head_start: int = 0,
        seed: int = 0,
    ) -> None:
        ours, theirs = _frame(student.config), _frame(teacher.config)
        if forcing.design.kind != "clip" or ours != theirs:
            raise RunError(
                f"a teacher of design {forcing.design} for frames {theirs} does not judge frames {ours}: "
                "name a world made by `worldsim train design=clip:4` on the same recording"
            )
        critic = copy.deepcopy(teacher).requires_grad_(True).train()
        super().__init__(
            student, critic, computer, at=at, critic_steps=critic_steps, head_start=head_start, seed=seed
        )
        self._actions = student.config.num_actions
        self.stretches = Stretches(forcing.design.reference(forcing.model), forcing.design.frames)
        lesson = _Lesson(critic, forcing, weight, computer.dtype)

        @torch.no_grad()
        def judge(*given: Tensor) -> tuple[Tensor, Tensor]:
            return computer.call(teacher, *given), computer.call(critic, *given)

        self._judge, self._critic_loss = computer.built(judge), computer.computed(lesson)

    def judged(self, made: Tensor, moments: Moments, draw: int) -> tuple[Tensor, Tensor]:
        """See :class:`~worldsim.training.distillation.dmd.Matching`."""
        clean, led, t, noise = self._arranged(made, moments, draw)
        found = self._judge(torch.lerp(clean, noise, t.to(clean)[..., None, None]), t, led)
        rows, new = len(moments.begun().frames), slice(self.stretches.reference, None)
        real, fake = (self.stretches.joined(x0[:, new], rows) for x0 in found)
        return real, fake

    def critic_loss(self, made: Tensor, moments: Moments, draw: int) -> Tensor:
        """See :class:`~worldsim.training.distillation.dmd.Matching`."""
        loss: Tensor = self._critic_loss(*self._arranged(made, moments, draw))
        return loss

    def _arranged(self, made: Tensor, moments: Moments, draw: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames, actions, levels and noise of stretches; frames that are made together share a level."""
        m, cut, begun = moments, self.stretches.cut, moments.begun()
        clean, led = cut(begun.frames, made), cut(begun.led, m.cue % self._actions)
        noise = cut(torch.zeros_like(begun.frames), m.noise[draw])
        t = cut(torch.zeros_like(begun.led, dtype=m.levels[draw].dtype), m.levels[draw])
        reference = self.stretches.reference
        t = torch.cat((torch.zeros_like(t[:, :reference]), t[:, reference:][:, :1].expand_as(t[:, reference:])), 1)
        return clean, led, t, noise


class _Lesson(nn.Module):
    def __init__(self, critic: DiT, forcing: Forcing, weight: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.critic, self.forcing, self.weight, self.dtype = critic, forcing, weight, dtype

    def forward(self, clean: Tensor, led: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.forcing.error(self.critic, clean.to(self.dtype), led, t, noise, self.weight)


def _frame(config: ModelConfig) -> tuple[int, int, int, int]:
    return config.height, config.width, config.patch, config.num_actions
