"""Self-Forcing: what the student learns from are roll-outs of its own, made tick by tick with its own ring cache.

A clip's first window primes the cache; from there on every frame is the student's, committed as a session commits it,
under the recorded actions (Self-Forcing, arXiv 2506.08009, algorithm 1). The ring forgets what is older than a window,
which is the paper's rolling cache. Distribution matching then judges every frame of the roll-out given the history
that the roll-out had, and the gradient goes through one random exit step of each frame's own denoising
(:func:`~worldsim.training.distillation.dmd.exit_frames`); none goes through the history, whose encoder is frozen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.engine.memory import Memory
from worldsim.engine.parts import EncodePart
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel
from worldsim.start import Start
from worldsim.training.computing import Computer
from worldsim.training.distillation.dmd import Exit


class RollOuts:
    """Roll-outs of a student, from recorded frames under recorded actions.

    Args:
        student: Its decoder makes frames with the weights it has at the time; its encoder rests.
        computer: Of everything.
        at: Noise levels of a frame's denoising steps, as it will be played.
        rows: Roll-outs made together.
    """

    def __init__(self, student: WorldModel, computer: Computer, *, at: Sequence[float], rows: int) -> None:
        self._model = copy.deepcopy(student).to(computer.dtype).eval().requires_grad_(False)
        self._memory = Memory(self._model, rows, 0)
        self._encode = computer.built(torch.no_grad()(EncodePart(self._model).eval()))
        self._make = computer.computed(Exit(student.decoder, at[:-1]), gradient=False)

    @torch.no_grad()
    def roll(
        self, frames: Tensor, actions: Tensor, cues: Tensor, noise: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What the student knows before each of its own frames.

        Args:
            frames: Recorded ones that a row begins with, uint8 [B, N, H, W, 3].
            actions: int64 [B, N-1+K]; after the first N-1, the roll-out's.
            cues: Of the roll-out's K ticks [B, K], by the recorded rewards; see :func:`~worldsim.model.cue.cues`.
            noise: What each of its K frames is made of, [B, L, P] each.

        Returns:
            Contexts [K, B, L, D] and views [K, B, L, V] of the frames before those K.
        """
        memory, begun = self._memory, frames.shape[1]
        past = frames.cpu().numpy(), actions[:, : begun - 1].cpu().numpy()
        memory.begin(list(range(len(frames))), [Start("recorded", *pair) for pair in zip(*past, strict=True)])
        contexts, views = [], []
        ticks = zip(noise, actions[:, begun - 1 :].unbind(1), cues.unbind(1), strict=True)
        for made_of, action, cue in ticks:
            contexts.append(memory.context.clone())
            views.append(memory.view.clone())
            made = self._make(memory.context, memory.view, cue, made_of.to(memory.context.dtype))
            grey = to_uint8(made.float())
            memory.frames.copy_(self._model.unpatchify(grey))
            memory.action.copy_(action)
            memory.keep(self._encode, by_row=True)
        return torch.stack(contexts), torch.stack(views)
