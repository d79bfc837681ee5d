"""The one description of a world model's shape; it travels with the weights as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECODERS = ("convolutions", "tokens")
CELL = 2  # pixels, side of the squares that the decoder's finest convolutions run over


@dataclass(frozen=True)
class MultiScaleConfig:
    """Attention at two scales, see :class:`~worldsim.model.multiscale.MultiScaleAttention`.

    Attributes:
        near: Frames that the fine branch sees, the present one included.
        cone: Tokens that a thing may move in a frame: the fine branch sees places up to ``1 + cone * age`` away.
        pool: Tokens along a side of the squares that the coarse branch averages; twice as many in the deeper half of
            the blocks.
        stride: Frames from one that the coarse branch remembers to the next.
    """

    near: int = 4
    cone: float = 0.5
    pool: int = 2
    stride: int = 4

    def __post_init__(self) -> None:
        if min(self.near, self.stride) < 2 or self.pool < 1 or not 0 <= self.cone <= 8:
            raise ValueError(
                "model.multiscale needs near and stride of at least 2, pool of at least 1 and cone in [0, 8], "
                f"not {self.near}, {self.stride}, {self.pool} and {self.cone}"
            )

    def reach(self, age: int) -> int:
        """Tokens from a place to what the fine branch sees, so many frames ago."""
        return 1 + math.floor(self.cone * age)

    def pooled(self, layer: int, layers: int) -> int:
        """Side of the squares of a block: the deeper half pools more."""
        return self.pool if layer < layers / 2 else 2 * self.pool

    def slots(self, window: int) -> int:
        """Frames that the coarse branch remembers of a window, the present one not among them."""
        return -(-(window - 1) // self.stride)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a :class:`~worldsim.model.world_model.WorldModel`.

    Attributes:
        num_actions: Size of the discrete action set.
        height, width: Frame size in pixels; multiples of ``patch``.
        patch: Side of a square patch in pixels; a frame is ``(height / patch) * (width / patch)`` tokens.
        margin: Pixels around its patch that a token of a seen frame sees too.
        history: Frames that are seen at once, the last one among them: it, and how each came from the one before. Two
            tell a speed; but a ball that has just hidden behind an edge, or moves by a pixel and by two in turns, is
            only told by more.
        extrapolated: At most so many tokens of a frame, those around which most has changed, are also told how their
            patch changes if motion goes on; see :class:`~worldsim.model.motion.MotionExtrapolation`. 0: nobody asks.
        dim: Width of a token.
        heads: Attention heads; ``dim`` is a multiple of it.
        encoder_layers: Causal blocks, run once a frame.
        decoder: ``"convolutions"`` (:class:`~worldsim.model.conv_decoder.ConvDecoder`) or ``"tokens"``
            (:class:`~worldsim.model.token_decoder.TokenDecoder`).
        decoder_layers: Frame-wise blocks, run once a denoising step; of convolutions, those on squares of 4x4 pixels.
        decoder_width: Channels of convolutions on squares of 2x2 pixels; twice as many on those of 4x4.
        decoder_heads: Heads of attention among all squares of 8x8 pixels between convolutions, see
            :class:`~worldsim.model.convolution.GridAttention`: what happens far apart at once (a ball is served, and a
            paddle is put elsewhere) is chosen together. 0: convolutions see some thirty pixels.
        window: Frames that an encoder block sees along time, the current one included.
        age_dim: So many values of each head of the encoder are also told how old the frames are that it looks at, see
            :class:`~worldsim.model.attention.TemporalAttention`; even. With ``multiscale``, which has positions of its
            own, it is 0.
        past_actions: Actions that a frame's context tells, the last one among them; see :mod:`worldsim.model.trail`.
        reward_ages: Ticks for which the decoder is told the sign and the age of the last reward; see
            :mod:`worldsim.model.cue`. 0: it is told of no reward.
        recency: Whether a head tells from the frames whether the last reward is so young, and of which sign, so that a
            session can notice where its count of them is wrong; see :class:`~worldsim.engine.referee.Referee`.
        own_end: Whether the end is told from what changes, by layers of its own; see
            :class:`~worldsim.model.outcome.EndHead`. For games with lives, of which a few pixels tell.
        standardised: Whether networks see frames less their median and over their spread, and foretell the difference;
            see :class:`~worldsim.model.standard.Standard`. Of the decoder of convolutions that is not so.
        viewed: Whether tokens of other designs than ``scd`` also see the view of the frame before theirs, as the tokens
            of ``scd``'s decoder do; see :class:`~worldsim.model.dit.DiT`.
        refined: Whether convolutions see the noisy frame before tokens do, and go over what these foretell, see
            :class:`~worldsim.model.refiner.Refiner`: of the decoder of tokens and of other designs than ``scd``.
        mlp_ratio: Hidden width of an MLP over ``dim``.
        context_levels: Buckets of context noise that the encoder can be told of; bucket 0 is clean.
        max_context_noise: Noise level of the last bucket, in (0, 1).
        multiscale: How the encoder's attention sees at two scales; ``window`` is then what its coarse branch spans.
            None: it sees the frame, and then the same place along time.
        shortcut: Steps of the finest sampler that the decoder knows by its step size, a power of two; see
            :class:`~worldsim.model.decoder.StepSizeEmbedding`. None: it is told of no step size.
    """

    num_actions: int
    height: int = 64
    width: int = 64
    patch: int = 8
    margin: int = 4
    history: int = 2
    extrapolated: int = 16
    dim: int = 256
    heads: int = 4
    encoder_layers: int = 4
    decoder: str = "convolutions"
    decoder_layers: int = 3
    decoder_width: int = 32
    decoder_heads: int = 0
    window: int = 16
    age_dim: int = 0
    past_actions: int = 1
    reward_ages: int = 0
    recency: bool = False
    own_end: bool | None = None
    standardised: bool | None = None
    viewed: bool | None = None
    refined: bool | None = None
    mlp_ratio: int = 4
    context_levels: int = 10
    max_context_noise: float = 0.3
    multiscale: MultiScaleConfig | None = None
    shortcut: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "num_actions",
            "height",
            "width",
            "patch",
            "dim",
            "heads",
            "encoder_layers",
            "decoder_layers",
            "decoder_width",
            "past_actions",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.height % self.patch or self.width % self.patch:
            raise ValueError(f"frames of {self.height}x{self.width} do not divide into patches of {self.patch}")
        if self.decoder not in DECODERS:
            raise ValueError(f"model.decoder must be one of {', '.join(DECODERS)}, not {self.decoder}")
        sides = self.height % (2 * CELL) or self.width % (2 * CELL)
        if self.decoder == "convolutions" and (self.patch % CELL or sides):
            raise ValueError(
                f"model.patch must be a multiple of {CELL}, and a frame's sides of {2 * CELL}, "
                f"not {self.patch} and {self.height}x{self.width}"
            )
        if self.refined and self.patch % CELL:
            raise ValueError(f"with model.refined, model.patch must be a multiple of {CELL}, not {self.patch}")
        if self.decoder_heads:
            self._check_attention()
        if self.history < 2:
            raise ValueError(f"model.history must be at least 2 frames, not {self.history}")
        for name in ("margin", "extrapolated", "reward_ages", "decoder_heads"):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name} must be at least 0, not {getattr(self, name)}")
        if (self.num_actions + 1) ** self.past_actions > 2**40:
            raise ValueError(
                f"model.past_actions={self.past_actions} of {self.num_actions} are too many to count: give fewer"
            )
        if self.recency and not self.reward_ages:
            raise ValueError("model.recency corrects what model.reward_ages tells: give that too")
        if self.dim % self.heads:
            raise ValueError(f"model.dim {self.dim} is not a multiple of model.heads {self.heads}")
        if self.window < 2:
            raise ValueError(f"model.window must be at least 2 frames, not {self.window}")
        if self.age_dim % 2 or not 0 <= self.age_dim <= self.head_dim or (self.age_dim and self.multiscale):
            raise ValueError(
                f"model.age_dim must be even, at most {self.head_dim} and, with model.multiscale, 0, not {self.age_dim}"
            )
        if self.multiscale is not None:
            self._check_scales(self.multiscale)
        if self.shortcut is not None and (self.shortcut < 2 or self.shortcut & (self.shortcut - 1)):
            raise ValueError(f"model.shortcut must be a power of two of at least 2, not {self.shortcut}")
        if self.context_levels < 1 or not 0 <= self.max_context_noise < 1:
            raise ValueError("model.context_levels must be at least 1 and model.max_context_noise in [0, 1)")

    def _check_attention(self) -> None:
        if self.decoder != "convolutions" or self.height % (4 * CELL) or self.width % (4 * CELL):
            raise ValueError(
                f"model.decoder_heads is of decoder=convolutions over frames whose sides are multiples of {4 * CELL}, "
                f"not of {self.decoder} over {self.height}x{self.width}: give 0"
            )

    def _check_scales(self, how: MultiScaleConfig) -> None:
        if self.heads % 2 or self.window < how.near:
            raise ValueError(
                "with model.multiscale, model.heads must be even and model.window "
                f"at least multiscale.near={how.near}, not {self.heads} and {self.window}"
            )
        if self.rows % (2 * how.pool) or self.columns % (2 * how.pool):
            raise ValueError(
                f"{self.rows}x{self.columns} tokens do not divide into squares of {2 * how.pool}: "
                "lower model.multiscale.pool or model.patch"
            )

    @property
    def rows(self) -> int:
        """Token rows of a frame."""
        return self.height // self.patch

    @property
    def columns(self) -> int:
        """Token columns of a frame."""
        return self.width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of a frame (L)."""
        return self.rows * self.columns

    @property
    def cues(self) -> int:
        """How many different cues there are, see :func:`~worldsim.model.cue.cues`."""
        return self.num_actions * (1 + 2 * self.reward_ages)

    @property
    def patch_dim(self) -> int:
        """Values in an RGB patch (P)."""
        return 3 * self.patch * self.patch

    @property
    def view_dim(self) -> int:
        """Values that a token sees of a frame (V), see :meth:`~worldsim.model.world_model.WorldModel.view`.

        A patch with margin, how it changed, how it did in the frames before and, with extrapolation, what change is
        due.
        """
        return 2 * self.seen_dim + self.patch_dim * (self.history - 2 + bool(self.extrapolated))

    @property
    def seen_dim(self) -> int:
        """Values in an RGB patch with its margin."""
        return 3 * (self.patch + 2 * self.margin) ** 2

    @property
    def scene_shape(self) -> tuple[int, ...]:
        """What the decoder has of the past of a frame, see :meth:`FrameDecoder.scene`."""
        if self.decoder == "tokens":
            return self.tokens, self.dim
        return self.height // CELL, self.width // CELL, self.decoder_width

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads

    def context_noise(self, bucket: int) -> float:
        """Noise level in [0, 1) of a context-noise bucket; 0 for bucket 0."""
        return self.max_context_noise * bucket / max(1, self.context_levels - 1)
