"""Separable Causal Diffusion in pixels: causal encoder, frame-wise decoder, outcome heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.model.config import ModelConfig
from worldsim.model.conv_decoder import ConvDecoder
from worldsim.model.decoder import FrameDecoder
from worldsim.model.encoder import CausalEncoder
from worldsim.model.outcome import OutcomeHead
from worldsim.model.patches import patchify, shown, unpatchify
from worldsim.model.token_decoder import TokenDecoder
from worldsim.model.trail import no_trail, trails
from worldsim.model.views import Views


class WorldModel(nn.Module):
    """A causal, action-conditioned diffusion model of one game (SCD, arXiv 2602.10095; no autoencoder).

    ``encode`` turns frames and the actions that led to them into contexts, ``decode`` denoises the next frame given one
    context and the current action, ``outcome`` reads reward and termination from a frame and its context.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CausalEncoder(config)
        kind = TokenDecoder if config.decoder == "tokens" else ConvDecoder
        self.decoder: FrameDecoder = kind(config)
        self.heads = OutcomeHead(config)
        self.looks = Views(config)

    @property
    def no_action(self) -> int:
        """The trail of "no action came before"."""
        return no_trail(self.config)

    @property
    def memory_layers(self) -> int:
        """Layers with keys and values in the ring."""
        return self.config.encoder_layers

    def previous_actions(self, actions: Tensor) -> Tensor:
        """Actions [B, T-1] after a clip's frames but the last to the trails that led to each of its frames [B, T]."""
        return trails(actions, self.config)

    def patchify(self, frames: Tensor) -> Tensor:
        """Frames [..., H, W, 3] to patches [..., L, P]."""
        return patchify(frames, self.config)

    def see(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 frames [..., H, W, 3], as they are shown, to patches [..., L, P] in [-1, 1]."""
        return self.shown(self.patchify(frames), dtype)

    @staticmethod
    def shown(patches: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 patches to values in [-1, 1]."""
        return shown(patches, dtype)

    def view(self, patches: Tensor, before: Tensor | None) -> Tensor:
        """What the networks see of a frame; see :meth:`Views.view`."""
        return self.looks.view(patches, before)

    def view_of(self, past: Tensor) -> Tensor:
        """As :meth:`view`, from patches of the last frames [..., history, L, P], the newest last."""
        return self.looks.view_of(past)

    def views(self, patches: Tensor) -> Tensor:
        """The views [B, T, L, V] of whole clips [B, T, L, P]."""
        return self.looks.views(patches)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Patches [..., L, P] to frames [..., H, W, 3]."""
        return unpatchify(patches, self.config)

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

    def decode(self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, cue: Tensor) -> Tensor:
        """Clean frame as patches [B, L, P]; see :meth:`FrameDecoder.forward`."""
        return self.decoder(noisy, t, context, last, cue)

    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """What :meth:`denoise` needs of the past; see :meth:`FrameDecoder.scene`."""
        return self.decoder.scene(context, last)

    def modulations(self, t: Tensor, cue: Tensor, size: Tensor | None = None) -> list[Tensor]:
        """What :meth:`denoise` needs of noise levels, cues and step sizes; see :meth:`FrameDecoder.modulations`."""
        return self.decoder.modulations(t, cue, size)

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """:meth:`decode` with all that can be prepared before the action is known; see :meth:`FrameDecoder.denoise`."""
        return self.decoder.denoise(noisy, scene, modulations)

    def outcome(self, context: Tensor, view: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        """Logits of reward sign [..., 3], termination [..., 2] and perhaps recency; see :class:`OutcomeHead`."""
        logits: tuple[Tensor, ...] = self.heads(context, view, last)
        return logits

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
