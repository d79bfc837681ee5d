"""The arithmetic of a tick as three pure modules: what a backend compiles, and nothing else.

Tensors in, tensors out: no cache is written, no random number drawn, no Python state kept. The ring and the noise stay
with :class:`~worldsim.engine.session.Session`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.engine.sampler import sample
from worldsim.model.world_model import WorldModel


class DecodePart(nn.Module):
    """Noise to the clean frame: every denoising step of one frame, between an action and its picture.

    A sampler asks for a handful of noise levels and a game has a handful of actions, or some hundred cues. What the two
    do to the decoder is computed once, here, and looked up in a tick; computing it every time reads a third of the
    decoder's weights.

    Args:
        model: Shares its weights with this module.
        levels: Falling noise levels from 1 to 0, see :func:`~worldsim.engine.sampler.levels`.
    """

    table: Tensor

    def __init__(self, model: WorldModel, levels: Sequence[float]) -> None:
        super().__init__()
        self.decoder, self.levels = model.decoder, tuple(levels)
        cues = torch.arange(model.config.cues, device=next(model.parameters()).device)
        with torch.no_grad():
            ones = torch.ones(len(cues), device=cues.device)
            by_level = [
                model.modulations(t * ones, cues, (t - s) * ones)
                for t, s in zip(levels[:-1], levels[1:], strict=True)
            ]
        self.sizes = [part.shape[-1] for part in by_level[0]]
        self.register_buffer("table", torch.stack([torch.cat(parts, -1) for parts in by_level]), persistent=False)

    def forward(self, noise: Tensor, scene: Tensor, cue: Tensor) -> Tensor:
        """Clean patches.

        Args:
            noise: Standard normal, float32 [B, L, P].
            scene: [B, H / 2, W / 2, C], see :meth:`WorldModel.scene`.
            cue: int64 [B], the action taken now and what else is told, see :func:`~worldsim.model.cue.cues`.

        Returns:
            x0, float32 [B, L, P]; the arithmetic between two denoising steps is in float32.
        """
        chosen = self.table.index_select(1, cue)  # [levels, B, M]
        at = {t: i for i, t in enumerate(self.levels[:-1])}

        def denoise(x: Tensor, t: float) -> Tensor:
            modulations = chosen[at[t]].split(self.sizes, -1)
            return self.decoder.denoise(x.to(scene.dtype), scene, modulations).float()

        return sample(denoise, noise, self.levels)


class EncodePart(nn.Module):
    """A shown frame into memory: what runs behind the picture.

    Of a model whose encoder does not see (:attr:`CausalEncoder.sees`) no more is computed than what it gives all the
    same; what is kept of a frame is then 0, and never looked at. Weights are not to change behind this module's back.
    """

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        self.sees = model.encoder.sees or model.config.multiscale is not None  # which is kept in another shape

    def forward(
        self, frames: Tensor, before: Tensor, action: Tensor, level: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Context of the frame that was shown, and what is kept of it.

        Args:
            frames: uint8 [B, H, W, 3].
            before: View of the frame before [B, L, V].
            action: int64 [B], the trail that led here, see :mod:`worldsim.model.trail`.
            level: int64 [B], context-noise bucket.
            keys, values: [layers, B, h, L, W-1, hd].
            bias: [layers, B or 1, h, 1, W-1].

        Returns:
            Context [B, L, D], view [B, L, V], scene [B, H / 2, W / 2, C], and this frame's keys and values
            [layers, B, h, L, hd].
        """
        view = self.model.view(self.model.see(frames, before.dtype), before)
        if self.sees:
            context, key, value = self.model.encode_step(view, action, level, keys, values, bias)
        else:
            context = self.model.encoder.blind(action, level)
            key, value = torch.zeros_like(keys.select(-2, 0)), torch.zeros_like(values.select(-2, 0))
        return context, view, self.model.scene(context, view), key, value


class OutcomePart(nn.Module):
    """Reward and end of episode of the frame that was shown: float32 logits [B, 3] and [B, 2], and perhaps [B, 3]."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.heads = model.heads

    def forward(self, context: Tensor, view: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        """See :class:`~worldsim.model.outcome.OutcomeHead`."""
        return tuple(logits.float() for logits in self.heads(context, view, last))
