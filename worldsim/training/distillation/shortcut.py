"""Shortcut forcing: one decoder for many steps and for few, taught by itself.

A denoising step of size d from level t is x_{t-d} = x_t - d v, with v = (x_t - x0) / t. A decoder that is told d can
say where *two* steps of half the size lead (shortcut models, arXiv 2410.12557), and from that where four do. The finest
step is taught by recorded play, as in pretraining, and all others by the decoder itself; x0 is what is predicted and
what errors are of (shortcut forcing, Dreamer 4, arXiv 2509.24527).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim.model.decoder import FrameDecoder
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.distillation.teaching import Denoise, Method, Moments, weighted_error


class Shortcut(Method):
    """Half of a step's frames teach the finest step by what was recorded, half all coarser ones by two steps each.

    Args:
        student: Its decoder learns, and is told of step sizes (:attr:`~worldsim.model.config.ModelConfig.shortcut`).
        computer: Of everything.
        weight: Of pixels that move.
        seed: Of the step sizes.
    """

    def __init__(self, student: WorldModel, computer: Computer, *, weight: float, seed: int) -> None:
        finest = student.config.shortcut
        assert finest is not None
        self.networks = {"student": student.decoder}
        self._student, self._weight, self._seed, self._halvings = student, weight, seed, finest.bit_length() - 1
        self._say = computer.computed(Denoise(student.decoder))
        self._lead = computer.computed(TwoSteps(student.decoder), gradient=False)

    def losses(self, moments: Moments) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Method`. Every other frame is noised to its level and taught by the recorded one."""
        m, rng = moments, np.random.default_rng((self._seed, moments.step))
        dtype, device, wanted = m.noise[0].dtype, m.cue.device, m.real.clone()
        t, size = m.levels[0].clone(), torch.full_like(m.levels[0], 0.5**self._halvings)
        bold = slice(1, None, 2)  # kept frames come in no order, those of a clip one after the other
        t[bold], size[bold] = (
            torch.from_numpy(one).to(device, dtype) for one in steps(rng, len(t[bold]), self._halvings)
        )
        noisy = torch.lerp(m.real, m.noise[0], t[:, None, None])
        given = [one[bold] for one in (noisy, t, m.context, m.last, m.cue, size)]
        wanted[bold] = self._lead(*given).to(wanted)
        made = self._say(noisy, t, m.context, m.last, m.cue, size)
        yield "student", m.mean(weighted_error(made, wanted, m.last, self._student, self._weight))


def steps(rng: np.random.Generator, count: int, halvings: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Levels and sizes of denoising steps, float32 [count]: sizes of 1, 1/2 ... 2 / 2^halvings come equally often, from
    levels on the grid of that size.
    """
    pieces = 2 ** rng.integers(0, halvings, count)
    return (rng.integers(1, pieces + 1) / pieces).astype(np.float32), (1 / pieces).astype(np.float32)


class TwoSteps(nn.Module):
    """The x0 [N, L, P] by which one step of a size [N] leads where two of half that size do.

    With v the mean of both steps' directions it is x_t - t v, which lies between what the two take the frame for, and
    so in [-1, 1] as frames do. Left to itself, a decoder that is taught by its own guesses can leave that.
    """

    def __init__(self, decoder: FrameDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, cue: Tensor, size: Tensor) -> Tensor:
        scene, half = self.decoder.scene(context, last), size / 2
        middle = t - half

        def guess(x: Tensor, level: Tensor) -> Tensor:
            return self.decoder.denoise(x, scene, self.decoder.modulations(level, cue, half))

        first = guess(noisy, t)
        second = guess(first + (middle / t)[:, None, None] * (noisy - first), middle)
        return torch.lerp(first, second, (t / middle / 2)[:, None, None]).clamp(-1, 1)
