"""The pretraining objective of Separable Causal Diffusion: one encoder pass, several denoising draws, outcome heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.engine.sampler import levels, shift_levels
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.cue import cues
from worldsim.model.patches import patchify, unpatchify
from worldsim.model.world_model import WorldModel
from worldsim.training.crops import CHANGED, cut
from worldsim.training.recall import Recall

REACH = 3  # pixels that what moves gets on in a tick, and its own size


@dataclass(frozen=True)
class LossConfig:
    """What the loss pays attention to.

    Attributes:
        draws: Noise levels drawn per encoder pass; the decoder is cheap, so several amortise it (SCD).
        noise_shift: Noise levels are t = s u / (1 + (s - 1) u), u uniform: towards pure noise, where few steps work.
        sampled: Share of the levels that are those which a sampler of ``sampled_steps`` steps asks for: a small decoder
            that will be asked at two levels does not have to be good at every one.
        sampled_steps, sampled_shift: Of :func:`~worldsim.engine.sampler.levels`; without a shift they are even.
        choices: Guesses from pure noise of which the decoder alone (of kept frames) learns from one, drawn by how near
            each is to what followed: the more noise there is to choose from, the more of what nobody can know a guess
            may leave to its noise, instead of drawing the mean of all that may follow. Expectation maximisation of a
            generator whose latent variable is the noise; with an ``choice_error`` of 0 implicit maximum likelihood
            (arXiv 1809.09087), which draws what is rare too often. None: one, and the mean is learned.
        choice_error: Sum of squared errors, of values in [-1, 1] over a frame or square, that makes a guess e times
            less likely to be learned from; a ball elsewhere in Pong is 20. None: 1.5.
        moved_weight: Weight of pixels that may change over that of those that stay; see :func:`attention`.
        hindsight: Share of the whole model's steps, the first, in which they are told from the frame that followed, see
            :func:`hindsight`: what is small is found within hundreds of steps, and what nobody can know is drawn too
            brightly, in several places at once. In the steps that follow a pixel weighs as what moves by either, the
            frame that followed or the guess: by the guess alone nothing would be left of what was unsure
            (docs/experiments/2026-11-30-thirty-eighth-lives.md). None: by the guess alone, all along.
        context_noise_share: Share of clips whose context is noised (GameNGen, arXiv 2408.14837).
        outcome_weight: Weight of the reward and termination cross-entropies.
        own_share: Share of clips that show the encoder the model's own frames instead of real ones; see
            :func:`~worldsim.training.own.own_frames`.
        own_ticks: A clip's frames are made again from those made before, so many times; then another takes its place.
        own_pool: Clips between two turns of the same one; see :class:`~worldsim.training.own.Turn`.
        own_level, own_highest: They are made from recorded frames noised to a level between these. From a high one they
            choose for themselves what nobody can know, and the recorded frame that is to follow contradicts them; from
            a low one only their faults are their own, if the decoder has learned to look at what it is noised from.
        own_steps, own_shift: Denoising steps of those frames, and the shift of their levels; likewise.
        own_after: Share of the run after which this begins; before it, the model's frames are no frames yet.
        crop: Patches along a side of the square of each frame whose error counts, see
            :class:`~worldsim.training.crops.Crops`; None: whole frames.
        rewarded: Share of clips that are drawn among those which hold a reward and a window after it, see
            :meth:`~worldsim.data.clips.ClipStore.after_reward`.
        untold: Share of clips whose last rewards the decoder is not told of: what follows a reward then also follows
            from what is near by, as likely as in the record. It hardly brings a lost ball back, which only the whole
            frame tells of (docs/experiments, the twentieth Pong); see ``model.recency`` for that.
        recall: Weight of the cross-entropy of telling at every token how many ticks ago the last reward was, and which,
            see :class:`~worldsim.training.recall.Recall`.

    Raises:
        RunError: ``own_level`` and ``own_highest`` are no levels, or in the wrong order; ``sampled`` or ``hindsight``
            is no share; ``choices`` are none, or without ``sampled``, so that no level is that of pure noise.
    """

    draws: int = 1
    noise_shift: float = 20.0
    sampled: float = 0.0
    sampled_steps: int = 2
    sampled_shift: float | None = None
    choices: int | None = None
    choice_error: float | None = None
    moved_weight: float = 16.0
    hindsight: float | None = None
    context_noise_share: float = 0.0
    outcome_weight: float = 0.1
    own_share: float = 0.34
    own_ticks: int = 8
    own_pool: int = 16
    own_level: float = 0.5
    own_highest: float = 1.0
    own_steps: int = 2
    own_shift: float | None = None
    own_after: float = 0.15
    crop: int | None = None
    rewarded: float = 0.0
    untold: float = 0.0
    recall: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.own_level <= self.own_highest <= 1:
            told = f"own_level={self.own_level:g} and own_highest={self.own_highest:g}"
            raise RunError(f"{told} are no levels in (0, 1], the first at most the second: give such")
        for name, share in (("sampled", self.sampled), ("hindsight", self.hindsight or 0.0)):
            if not 0 <= share <= 1:
                raise RunError(f"{name}={share:g} is no share: give a number from 0 to 1")
        if self.choices is not None and (self.choices < 1 or not self.sampled):
            told = f"choices={self.choices} is a number of guesses from pure noise, at least 1"
            raise RunError(f"{told}: give such a one, and sampled, the share of the levels among which pure noise is")

    def at(self, done: float) -> LossConfig:
        """The loss once a share ``done`` of the whole model's steps is behind: as it is, or by both."""
        late = self.hindsight is not None and done >= self.hindsight
        return replace(self, hindsight=0.0) if late else self

    @property
    def pure(self) -> float:
        """Share of the levels that are those of pure noise."""
        return self.sampled / self.sampled_steps


@dataclass
class Batch:
    """Clips and every random number that the loss needs, so that the loss itself is a pure function.

    Attributes:
        frames: uint8 [B, T, H, W, 3].
        actions: int64 [B, T-1]; action t is taken between frames t and t+1.
        rewards: int64 [B, T-1], sign of the reward + 1.
        terminated: int64 [B, T-1], 0 or 1.
        since: int64 [B, T-1], the last reward before each action, see :func:`~worldsim.model.cue.since_rewards`.
        context_level: int64 [B], context-noise bucket of the clip.
        context_noise: [B, T, L, P] standard normal; where a clip shows the model's own frames, what they are made of.
        own_level: [B, T-1] noise levels in (0, 1] that the model's own frames are made from.
        t: [B, S, T-1] noise levels in (0, 1].
        noise: [B, S, T-1, L, P] standard normal; [B, S, T-1, K, P] of squares.
        squares: int64 [B, T-1, K], the patches of each next frame whose error counts; [B, T-1, 0]: all.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    since: Tensor
    context_level: Tensor
    context_noise: Tensor
    own_level: Tensor
    t: Tensor
    noise: Tensor
    squares: Tensor

    def cues(self, config: ModelConfig) -> Tensor:
        """What the decoder is told at each tick, int64 [B, T-1]; see :func:`~worldsim.model.cue.cues`."""
        return cues(self.actions, self.since, config)


def noise_levels(u: NDArray[np.float32], loss: LossConfig) -> NDArray[np.float32]:
    """Levels in (0, 1] to learn from, by uniform numbers in (0, 1]; see ``noise_shift`` and ``sampled``."""
    if not loss.sampled:
        return shift_levels(u, loss.noise_shift)
    asked = np.array(levels(loss.sampled_steps, loss.sampled_shift or 1.0)[:-1], np.float32)
    which = np.minimum(u / loss.sampled * len(asked), len(asked) - 1).astype(int)
    rest = shift_levels((u - loss.sampled) / max(1 - loss.sampled, 1e-6), loss.noise_shift)
    return np.where(u <= loss.sampled, asked[which], rest).astype(np.float32)


def moved(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """Pixels up to ``reach`` away from one that differs between two frames.

    Args:
        first, second: Frames [..., H, W, 3] in [-1, 1]; broadcast.
        reach: Pixels along and across.

    Returns:
        bool [..., H, W].
    """
    differs = ((second - first).abs() > CHANGED).any(-1)
    flat = differs.reshape(-1, 1, *differs.shape[-2:]).to(torch.float32)
    return (F.max_pool2d(flat, 2 * reach + 1, stride=1, padding=reach) > 0).view_as(differs)


@torch.no_grad()
def attention(layout: ModelConfig, before: Tensor, last: Tensor, made: Tensor, weight: float) -> Tensor:
    """Weight ``weight`` where something has moved or is foretold to, 1 elsewhere; of the error of a guess.

    It is told from what the guess was made from and from the guess itself, never from the frame that really followed.
    A weight w told from that frame x makes E[w x] / E[w] the best guess, where a diffusion model is to learn the mean
    E[x] of what may follow: a ball that is somewhere with a chance of a tenth was drawn at two thirds of its
    brightness, and so at several places at once (docs/experiments/2026-11-22-ninth-pong.md).

    Args:
        layout: Says how patches lie.
        before, last: Patches [..., L, P] of the last two frames as they were shown.
        made: The guess at the next one; broadcast with them.
        weight: See above.

    Returns:
        Patches in the broadcast shape.
    """
    first, second, third = (unpatchify(x, layout) for x in (before, last, made))
    return _weighted(layout, moved(first, second, REACH) | moved(second, third, 1), weight, made.dtype)


@torch.no_grad()
def hindsight(layout: ModelConfig, last: Tensor, following: Tensor, weight: float) -> Tensor:
    """Weight ``weight`` where something did move, 1 elsewhere; of the error of a guess at ``following``.

    A thing of a few pixels that may be at any of many places is drawn at none of them by a guess that is right on
    average, and a model that draws nothing is told little of where it should have been. Weighed so, it is drawn where
    it may be with a chance of a few percent. For the beginning of a run; what it costs is told at :func:`attention`.

    Args:
        layout: Says how patches lie.
        last: Patches [..., L, P] of the frame before.
        following: Those of the frame that followed; broadcast with it.
        weight: See above.

    Returns:
        Patches in the broadcast shape.
    """
    near = moved(unpatchify(last, layout), unpatchify(following, layout), 1)
    return _weighted(layout, near, weight, following.dtype)


def moving(
    layout: ModelConfig, before: Tensor, last: Tensor, made: Tensor, following: Tensor, weight: float, by: float | None
) -> Tensor:
    """Weights by :func:`attention` where ``by`` is None, by :func:`hindsight` where it is more than 0, else the larger.

    Arguments and result as of these two.
    """
    if by:
        return hindsight(layout, last, following, weight)
    foretold = attention(layout, before, last, made, weight)
    return foretold if by is None else torch.maximum(foretold, hindsight(layout, last, following, weight))


def _weighted(layout: ModelConfig, near: Tensor, weight: float, dtype: torch.dtype) -> Tensor:
    weights = 1 + (weight - 1) * near.to(dtype)
    return patchify(weights[..., None].expand(*weights.shape, 3), layout)


def last_rewards(rewards: Tensor) -> Tensor:
    """Of rewards [..., T-1] as signs + 1, those of the tick before; none (1) before the first."""
    return torch.cat((torch.ones_like(rewards[..., :1]), rewards[..., :-1]), -1)


def pretrain_loss(
    model: WorldModel,
    batch: Batch,
    config: LossConfig,
    seen: Tensor | None = None,
    within: WorldModel | None = None,
    recall: Recall | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted x0 error of every next frame of every clip, plus the outcome cross-entropies.

    Args:
        model: Called for ``encode``, ``decode`` and ``outcome``; its parameters' dtype is the compute dtype.
        batch: See :class:`Batch`.
        config: See :class:`LossConfig`.
        seen: Patches [B, T, L, P] of the frames that the encoder is shown; None: those of ``batch.frames``.
        within: The model for squares, see :meth:`~worldsim.training.crops.Crops.within`; None: whole frames.
        recall: Asks for the last reward; None: nobody does.

    Returns:
        The scalar loss, and detached parts: ``denoise``, ``reward``, ``end``.
    """
    dtype = next(model.parameters()).dtype
    c: ModelConfig = model.config
    b, frames_in_clip = batch.frames.shape[:2]
    draws = config.draws

    clean = model.see(batch.frames, dtype)  # [B, T, L, P]
    previous = model.previous_actions(batch.actions)  # [B, T]
    context_noise, bucket = batch.context_noise.to(dtype), batch.context_level
    level = bucket.to(dtype).view(b, 1, 1, 1) * (c.max_context_noise / max(1, c.context_levels - 1))
    views = model.views((1 - level) * (clean if seen is None else seen) + level * context_noise)
    context = model.encode(views, previous, bucket[:, None].expand(b, frames_in_clip))

    drawer, squares = (model, None) if within is None else (within, batch.squares)
    shown = clean if seen is None else seen
    before = torch.cat((shown[:, :1], shown[:, :-2]), 1)
    target, before, last, told, view = (
        cut(one, squares) for one in (clean[:, 1:], before, shown[:, :-1], context[:, :-1], views[:, :-1])
    )

    def per_draw(x: Tensor) -> Tensor:
        return x[:, None].expand(b, draws, *x.shape[1:])

    target, t = per_draw(target), batch.t.to(dtype)[..., None, None]
    noisy = (1 - t) * target + t * batch.noise.to(dtype)
    scene = drawer.scene(told, view)  # [B, T-1, H / 2, W / 2, C]
    modulations = drawer.modulations(batch.t.flatten(), per_draw(batch.cues(c)).flatten())
    x0 = drawer.denoise(noisy.flatten(0, 2), per_draw(scene).flatten(0, 2), modulations).view_as(target)
    weights = moving(drawer.config, before[:, None], last[:, None], x0, target, config.moved_weight, config.hindsight)
    denoise = ((x0.float() - target.float()).square() * weights).mean()

    reward_logits, end_logits, *_ = model.outcome(context[:, 1:], views[:, 1:], last_rewards(batch.rewards))
    reward = F.cross_entropy(reward_logits.float().flatten(0, 1), batch.rewards.flatten())
    end = F.cross_entropy(end_logits.float().flatten(0, 1), batch.terminated.flatten())
    loss = denoise + config.outcome_weight * (reward + end)
    parts = {"denoise": denoise.detach(), "reward": reward.detach(), "end": end.detach()}
    if recall is not None:
        told = recall(context[:, 1:], batch.rewards)
        loss, parts = loss + config.recall * told, parts | {"recall": told.detach()}
    return loss, parts
