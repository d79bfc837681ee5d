"""Distillation by a scoring rule: frames of one step that are drawn from what may follow, without a critic.

A denoiser that regresses says, from pure noise, the mean of all frames that may follow: a ball that may be in two
places is faint in both. The energy score (Gneiting and Raftery, 2007; for diffusion models arXiv
2502.02483) judges distributions: its expectation is least where made frames come as often as real ones, so that each
of them is one that may follow, and noise chooses which. It takes two frames made of the same past, and nothing else:
where distribution matching learns its critic beside the student, here what was recorded judges.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.decoder import FrameDecoder
from worldsim.model.patches import unpatchify
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.teaching import Method, Moments

WINDOWS = (8, 16)  # pixels, sides of the squares whose distances are summed
STILL = 0.01  # values in [-1, 1]: root mean squares far below count as their squares do
PURE = 0.75  # of the frames are made of pure noise


class EnergyScore(Method):
    """The student's first step draws frames, by the energy score; lower levels say the likeliest one.

    A quarter of the frames is made of the real ones noised to levels between ``own_level`` and 1, as the student's own
    frames are, with which its history is made.

    Args:
        teacher: Says how patches lie.
        student: Its decoder learns.
        computer: Of everything.
        own_level: See :class:`~worldsim.training.loss.LossConfig`.
    """

    def __init__(self, teacher: WorldModel, student: WorldModel, computer: Computer, *, own_level: float) -> None:
        self.networks = {"student": student.decoder}
        self._own_level = own_level
        self._score = computer.computed(_Score(student.decoder, teacher))

    def losses(self, moments: Moments) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Method`. All draws of noise are members of the score, at the first draw of levels."""
        m = moments
        t = self._own_level + (1 - self._own_level) * (m.levels[0] / (1 - PURE)).clamp(max=1)
        yield "student", m.mean(self._score(m.context, m.last, m.cue, m.real, t, torch.stack(tuple(m.noise))))


def energy_score(made: Tensor, real: Tensor, apart: Tensor) -> Tensor:
    """``mean_i d(made_i, real) - apart / 2 mean_{i != j} d(made_i, made_j)``, d as :func:`distance` says.

    Args:
        made: Frames [M, N, H, W, 3], at least two of each.
        real: [N, H, W, 3].
        apart: [N], 1 where the M frames were made of noise that says nothing of the real one; else 0, and the least is
            reached at the geometric median of the frames that may be meant.

    Returns:
        [N].
    """
    members = len(made)
    near = torch.stack([distance(one, real) for one in made]).mean(0)
    pairs = [distance(made[i], made[j]) for i in range(members) for j in range(i)]
    return near - 0.5 * apart * torch.stack(pairs).mean(0)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean squares of the difference within windows, half of a window apart, summed over their sizes.

    Windows are a little larger than what a thing may move or miss in a tick: one distance over whole frames would be
    that of whatever moves most, and pixels alone would say nothing of shapes.

    Args:
        first, second: Frames [N, H, W, 3] in [-1, 1].

    Returns:
        [N].
    """
    squares = (first.float() - second.float()).square().mean(-1)[:, None]  # [N, 1, H, W]
    total = squares.new_zeros(len(squares))
    for side in WINDOWS:
        within = F.avg_pool2d(squares, side, side // 2, side // 2)
        total = total + ((within + STILL**2).sqrt() - STILL).mean((1, 2, 3))
    return total


class _Score(nn.Module):
    def __init__(self, decoder: FrameDecoder, model: WorldModel) -> None:
        super().__init__()
        self.decoder, self.layout = decoder, [model.config]  # not a part of this module

    def forward(self, context: Tensor, last: Tensor, cue: Tensor, real: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        members, c = len(noise), self.layout[0]
        noisy = torch.lerp(real[None], noise, t[:, None, None])

        def each(x: Tensor) -> Tensor:  # [N, ...] -> [M N, ...]
            return x[None].expand(members, *x.shape).flatten(0, 1)

        scene = each(self.decoder.scene(context, last))
        modulations = [each(one) for one in self.decoder.modulations(t, cue)]
        made = self.decoder.denoise(noisy.flatten(0, 1), scene, modulations).view_as(noise)
        return energy_score(unpatchify(made, c), unpatchify(real, c), (t >= 1).float())
