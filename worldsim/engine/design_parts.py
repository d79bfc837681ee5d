"""The arithmetic of other designs' ticks as pure modules, prepared by backends as :mod:`worldsim.engine.parts` is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.engine.sampler import sample, shift_levels
from worldsim.model.dit import DiT


class ChunkDenoisePart(nn.Module):
    """Noise to a clean chunk: every block, every denoising step, between an action and its picture."""

    table: Tensor

    def __init__(self, model: DiT, levels: Sequence[float]) -> None:
        super().__init__()
        self.model, self.levels = model, tuple(levels)
        self.register_buffer("table", modulation_table(model, levels[:-1]), persistent=False)

    def forward(
        self, noise: Tensor, action: Tensor, keys: Tensor, values: Tensor, bias: Tensor, *before: Tensor
    ) -> Tensor:
        """Noise, float32 [B, k, L, P], the actions that lead to the frames [B, k], the ring and, for a model that sees
        it, the view [B, L, V] of the last frame to x0, float32.
        """
        at, ring = {t: i for i, t in enumerate(self.levels[:-1])}, (keys, values, bias, *before)

        def denoise(x: Tensor, t: float) -> Tensor:
            return self.model.step(x.to(self.table.dtype), self.table[at[t]][action], *ring).float()

        return sample(denoise, noise, self.levels)


class ChunkRememberPart(nn.Module):
    """The pass over the clean chunk, for its keys and values and, where it is seen, the view of its last frame."""

    table: Tensor

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("table", modulation_table(model, (0.0,)), persistent=False)

    def forward(
        self, patches: Tensor, action: Tensor, keys: Tensor, values: Tensor, bias: Tensor, *before: Tensor
    ) -> tuple[Tensor, ...]:
        """The shown chunk's patches [B, k, L, P] in [-1, 1], and as :class:`ChunkDenoisePart`, to keys and values
        [layers, B, h, L, k, hd], and the view [B, L, V].
        """
        modulation = self.table[0][action]
        clean = patches.to(modulation.dtype)
        kept = self.model.remember(clean, modulation, keys, values, bias, *before)
        return (*kept, *(self.model.view(clean, one) for one in before))


class ClipPart(nn.Module):
    """Noise to clean frames that see each other and those before them."""

    table: Tensor

    def __init__(self, model: DiT, reference: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.model, self.reference, self.levels = model, reference, tuple(levels)
        self.register_buffer("table", modulation_table(model, levels), persistent=False)  # the last is 0: clean

    def forward(self, noise: Tensor, clean: Tensor, action: Tensor) -> Tensor:
        """Noise, float32 [B, k, L, P], clean frames [B, r, L, P] and the actions that lead to all [B, r + k] to x0,
        float32 [B, k, L, P].
        """
        at, r = {t: i for i, t in enumerate(self.levels[:-1])}, self.reference
        known = self.table[-1][action[:, :r]]

        def denoise(x: Tensor, t: float) -> Tensor:
            modulation = torch.cat((known, self.table[at[t]][action[:, r:]]), 1)
            seen = torch.cat((clean, x), 1).to(modulation.dtype)
            return self.model.denoise(seen, modulation)[:, r:].float()

        return sample(denoise, noise, self.levels)


class StreamPart(nn.Module):
    """A tick of a moving buffer: every frame takes the next one's noise level, Euler's method on the rectified flow."""

    table: Tensor

    def __init__(self, model: DiT, frames: int, reference: int, passes: int, shift: float = 1.0) -> None:
        super().__init__()
        self.model, self.reference, self.passes = model, reference, passes
        # Noise levels of each pass, [passes + 1, n]: the oldest frame goes from the lowest to 0, the newest from 1.
        even = [[(i + 1 - done / passes) / frames for i in range(frames)] for done in range(passes + 1)]
        falls = [[shift_levels(u, shift) for u in row] for row in even]
        self.falls = tuple(tuple(row) for row in falls)
        rows = [(*[0.0] * reference, *row) for row in falls[:-1]]
        tables = [modulation_table(model, row) for row in rows]  # [n + r, actions, M] each
        self.register_buffer("table", torch.stack(tables), persistent=False)

    def forward(self, buffer: Tensor, action: Tensor) -> Tensor:
        """The buffer, float32 [B, r + n, L, P], and the actions that lead to its frames [B, r + n], to its last n."""
        clean, x = buffer[:, : self.reference], buffer[:, self.reference :]
        place = torch.arange(buffer.shape[1], device=buffer.device)
        for number in range(self.passes):
            modulation = self.table[number][place, action]  # [B, r + n, M]
            seen = torch.cat((clean, x), 1).to(modulation.dtype)
            x0 = self.model.denoise(seen, modulation)[:, self.reference :].float()
            before, after = self.falls[number], self.falls[number + 1]
            shares = [s / t for t, s in zip(before, after, strict=True)]
            share = torch.tensor(shares, device=x.device)[:, None, None]
            x = x0 + share * (x - x0)
        return x


def modulation_table(model: DiT, levels: Sequence[float]) -> Tensor:
    """What noise levels and actions do to a model, looked up in a tick: [levels, actions + 1, M]."""
    actions = torch.arange(model.config.num_actions + 1, device=model.position.device)
    with torch.no_grad():
        by_level = [torch.full(actions.shape, t, device=actions.device) for t in levels]
        return torch.stack([model.condition(level, actions) for level in by_level])
