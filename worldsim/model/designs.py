"""Designs by name: what stands beside Separable Causal Diffusion when they are compared, one network each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worldsim.errors import WorldsimError
from worldsim.model.config import ModelConfig
from worldsim.model.dit import DiT

SEPARABLE = "scd"
KINDS = ("dit", "clip", "stream", "stream-causal", "stream-windows")
_SEPARABLE_ALONE = ("age_dim", "past_actions", "reward_ages", "recency", "own_end", "decoder_heads")


@dataclass(frozen=True)
class Design:
    """A monolithic design, by its name.

    Attributes:
        kind: ``dit``, chunk-causal with a KV cache (CausVid, arXiv 2412.07772); ``clip``, bidirectional: frames that
            are made together see each other and the clean ones before them; ``stream``, a moving buffer at rising noise
            levels whose frames all see each other (StreamDiT, arXiv 2507.03745); ``stream-causal``, one whose frames
            see those before them; ``stream-windows``, one that sees within windows of space and time and shifted ones,
            as StreamDiT does.
        frames: Of a chunk, a clip or the buffer.
    """

    kind: str
    frames: int = 1

    @classmethod
    def parse(cls, text: str) -> Design:
        """``dit``, ``dit:4``, ``clip:4``, ``stream:4``, ``stream-causal:4`` or ``stream-windows:4``.

        Raises:
            WorldsimError: it is none of these.
        """
        kind, _, number = text.partition(":")
        frames = int(number) if number.isascii() and number.isdecimal() else 1 if text == "dit" else 0
        if kind not in KINDS or not 1 <= frames <= 64:
            raise WorldsimError(
                f"no design is called {text!r}: there is scd, dit, dit:<frames of a chunk>, clip:<frames together>, "
                "stream:<frames of the buffer>, stream-causal:<frames> and stream-windows:<frames>, of 1 to 64 frames"
            )
        return cls(kind, frames)

    def __str__(self) -> str:
        return self.kind if self.kind == "dit" and self.frames == 1 else f"{self.kind}:{self.frames}"

    def refuse_separable(self, config: ModelConfig) -> None:
        """Say so where something is asked for that :meth:`make` would ignore.

        Raises:
            WorldsimError: something that only the separable encoder and decoder have.
        """
        for name in _SEPARABLE_ALONE:
            usual = getattr(ModelConfig, name)
            if getattr(config, name) != usual:
                raise WorldsimError(f"model.{name} is for design=scd, not for {self}: leave it {usual}")

    def make(self, config: ModelConfig) -> DiT:
        """A fresh network of the sizes of a world, which may know more than it does.

        Raises:
            WorldsimError: attention at two scales is asked for, which only the separable encoder has.
        """
        if config.multiscale:
            raise WorldsimError(f"model.multiscale is for design=scd, not for {self}: leave it null")
        if self.kind == "dit":
            return DiT(config, self.frames)
        total = self.frames + self.reference(config)
        if self.kind == "stream-causal":
            return DiT(replace(config, window=max(2, total)))
        return DiT(replace(config, window=2), total, windows=self.kind == "stream-windows")

    def reference(self, config: ModelConfig) -> int:
        """Clean frames that go along where nothing is cached: as many as a world remembers, less those being made."""
        return 0 if self.kind == "dit" else max(1, config.window - self.frames)

    @property
    def delay(self) -> int:
        """Ticks from an action to the frame that is conditioned on it, 1 for the very next."""
        return self.frames
