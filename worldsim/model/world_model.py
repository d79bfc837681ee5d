"""Separable Causal Diffusion in pixels: causal encoder, frame-wise decoder, outcome heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.model.config import ModelConfig
from worldsim.model.decoder import FrameDecoder
from worldsim.model.encoder import CausalEncoder
from worldsim.model.outcome import OutcomeHead


class WorldModel(nn.Module):
    """A causal, action-conditioned diffusion model of one game (SCD, arXiv 2602.10095; no autoencoder).

    ``encode`` turns frames and the actions that led to them into contexts, ``decode`` denoises the next frame given one
    context and the current action, ``outcome`` reads reward and termination from the context of a frame.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CausalEncoder(config)
        self.decoder = FrameDecoder(config)
        self.heads = OutcomeHead(config.dim)

    @property
    def no_action(self) -> int:
        """Index of "no action came before" among the encoder's actions."""
        return self.config.num_actions

    def patchify(self, frames: Tensor) -> Tensor:
        """Frames [..., H, W, 3] to patches [..., L, P]."""
        c = self.config
        grid = frames.reshape(*frames.shape[:-3], c.rows, c.patch, c.columns, c.patch, 3)
        return grid.transpose(-4, -3).reshape(*frames.shape[:-3], c.tokens, c.patch_dim)

    def see(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 frames [..., H, W, 3], as they are shown, to patches [..., L, P] in [-1, 1]."""
        return self.patchify(frames).float().div(127.5).sub(1).to(dtype)

    def view(self, patches: Tensor, before: Tensor) -> Tensor:
        """What the networks see of a frame: its patches beside their difference to the frame before.

        Speed is in the difference. From single frames the network must find it by attention, and learns the few paths
        of a served ball by heart instead (docs/experiments/2026-11-21-first-pong.md).

        Args:
            patches: [..., L, P] in [-1, 1].
            before: Patches of the frame before; of a first frame, its own.

        Returns:
            [..., L, 2 P].
        """
        return torch.cat((patches, patches - before), -1)

    def views(self, patches: Tensor) -> Tensor:
        """The views [B, T, L, 2 P] of whole clips [B, T, L, P]; before the first frame it was the same."""
        return self.view(patches, torch.cat((patches[:, :1], patches[:, :-1]), 1))

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Patches [..., L, P] to frames [..., H, W, 3]."""
        c = self.config
        grid = patches.reshape(*patches.shape[:-2], c.rows, c.columns, c.patch, c.patch, 3)
        return grid.transpose(-4, -3).reshape(*patches.shape[:-2], c.height, c.width, 3)

    def encode(self, views: Tensor, previous_actions: Tensor, levels: Tensor) -> Tensor:
        """Contexts [B, T, L, D] of whole clips; see :meth:`CausalEncoder.forward`."""
        return self.encoder(views, previous_actions, levels)

    def encode_step(
        self,
        view: Tensor,
        previous_action: Tensor,
        level: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Context [B, L, D] of one frame given the cache; see :meth:`CausalEncoder.step`."""
        return self.encoder.step(view, previous_action, level, keys, values, bias)

    def ring_bias(self, age: Tensor) -> Tensor:
        """Bias of the ring's slots by age; see :meth:`CausalEncoder.ring_bias`."""
        return self.encoder.ring_bias(age)

    def decode(self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """Clean frame as patches [B, L, P]; see :meth:`FrameDecoder.forward`."""
        return self.decoder(noisy, t, context, last, action)

    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """What :meth:`denoise` needs of the past, tokens [B, L, D]; see :meth:`FrameDecoder.scene`."""
        return self.decoder.scene(context, last)

    def modulations(self, t: Tensor, action: Tensor) -> list[Tensor]:
        """What :meth:`denoise` needs of noise levels and actions; see :meth:`FrameDecoder.modulations`."""
        return self.decoder.modulations(t, action)

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """:meth:`decode` with all that can be prepared before the action is known; see :meth:`FrameDecoder.denoise`."""
        return self.decoder.denoise(noisy, scene, modulations)

    def outcome(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of reward sign [..., 3] and termination [..., 2]; see :class:`OutcomeHead`."""
        return self.heads(context)

    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())


def init_weights(model: WorldModel, seed: int) -> WorldModel:
    """Re-draw the weights of a model from a seed without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = WorldModel(model.config)
    model.load_state_dict(fresh.state_dict())
    return model
