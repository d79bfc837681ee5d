"""What the layers of a trained world do: where they look, and whether denoising steps repeat each other's work.

The two findings that Separable Causal Diffusion rests on (arXiv 2602.10095), as measurements of a world: deep layers
hardly look at other frames, and features hardly change from one denoising step to the next. The paper found them in
frame-causal diffusion transformers (``design=dit``); what it made of them, and other designs, can be looked into alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.clips import ClipStore
from worldsim.evaluation.specimen import Specimen, hooked
from worldsim.model.attention import TemporalAttention
from worldsim.model.multiscale import MultiScaleAttention


@dataclass(frozen=True)
class Looks:
    """Where temporal attention looks; at two scales, heads of the fine branch come before those of the coarse one.

    Attributes:
        by_age: Share of each head's attention by the age of the frame looked at, [layers, heads, ages], mean over
            tokens and over the frames that have a whole window before them; sums to 1 along ages, which are
            :attr:`~worldsim.evaluation.specimen.Specimen.ages`.
        frames: How many frames a token looks at, [layers, heads]: the mean of the exponential of its attention's
            entropy, from 1 (one frame alone) to as many as there are (all alike). A mean share can be even though every
            token is choosy.
    """

    by_age: NDArray[np.float64]
    frames: NDArray[np.float64]


@torch.inference_mode()
def looks(of: Specimen, store: ClipStore, clips: int, seed: int = 0) -> Looks:
    """Measure where temporal attention looks.

    Args:
        of: In eval mode.
        store: Clips of at least its length.
        clips: How many to look at.
        seed: Of the draw.
    """
    total = np.zeros((of.layers, of.heads, len(of.ages)))
    frames = np.zeros(total.shape[:2])
    for place in range(clips):
        for layer, found in enumerate(of.shares(store, place, seed)):
            shares = found.double()  # [B, L, h, frames, ages]
            entropy = -torch.xlogy(shares, shares).sum(-1)
            frames[layer] += entropy.exp().mean((0, 1, 3)).cpu().numpy()
            total[layer] += shares.mean((0, 1, 3)).cpu().numpy()
    return Looks(total / clips, frames / clips)


@torch.inference_mode()
def features_by_step(
    of: Specimen, store: ClipStore, steps: int, place: int = 0, seed: int = 0
) -> list[list[NDArray[np.float32]]]:
    """What each block gives in each denoising step, for the frames of one clip.

    Args:
        of: In eval mode.
        store: Clips of at least its length.
        steps: Denoising steps.
        place, seed: Which clip, and its noise.

    Returns:
        For each block, for each step: [frames, rows, columns, channels], places where the block has them.
    """
    return [[one.float().cpu().numpy() for one in block] for block in of.features(store, place, seed, steps)]


def similarity(features: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Cosine of the features of one place at two steps, mean over frames and places, [steps, steps]."""
    rows = [one.reshape(-1, one.shape[-1]).astype(np.float64) for one in features]
    rows = [row / np.maximum(np.linalg.norm(row, axis=-1, keepdims=True), 1e-12) for row in rows]
    return np.array([[float((a * b).sum(-1).mean()) for b in rows] for a in rows])


def principal(features: Sequence[NDArray[np.float32]], frame: int) -> list[NDArray[np.float32]]:
    """One frame's features at each step by their three principal components, pictures [rows, columns, 3] in 0 to 1."""
    flat = np.concatenate([one[frame].reshape(-1, one.shape[-1]) for one in features]).astype(np.float64)
    centred = flat - flat.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    parts = centred @ axes[:3].T
    parts = np.pad(parts, ((0, 0), (0, 3 - parts.shape[1])))
    low, high = np.percentile(parts, [2, 98], axis=0)
    shades = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1).astype(np.float32)
    rows, columns = features[0].shape[1:3]
    return [one.reshape(rows, columns, 3) for one in np.split(shades, len(features))]


def cuts(of: Specimen, store: ClipStore, clips: int, steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """The error one frame ahead when something is taken out of a trained network, without training it again.

    Temporal attention of each block that has it alone, and of it and all deeper ones, is cut down to the frame itself.
    Each block that runs once a denoising step is left out from the second step on, as are all that lie between the
    first and the last.

    Returns:
        A row each: ``what``, and root mean square errors in grey levels after ``steps`` denoising steps, ``moved`` and
        ``all`` (see :func:`~worldsim.training.progress.held_out_error`); the first is of the whole network.
    """
    rows = [{"what": "nothing", **of.error(store, clips, seed, steps)}]
    attentions, blocks = of.attentions, of.blocks
    for first in range(len(attentions)):
        for what, chosen in (
            (f"temporal attention of block {first + 1}", attentions[first : first + 1]),
            (f"temporal attention of blocks {first + 1} to {len(attentions)}", attentions[first:]),
        ):
            if len(chosen) > 1 or "blocks" not in what:
                with _alone(chosen):
                    rows.append({"what": what, **of.error(store, clips, seed, steps)})
    if steps > 1:
        name = of.denoising_block
        names = [(f"{name} {i + 1} after the first step", [block]) for i, block in enumerate(blocks)]
        if len(blocks) > 3:
            names.append((f"{name}s 2 to {len(blocks) - 1} after the first step", list(blocks[1:-1])))
        for what, left in names:
            with hooked(left, of.skipper(steps)):
                rows.append({"what": what, **of.error(store, clips, seed, steps)})
    return rows


@contextmanager
def _alone(attentions: Sequence[TemporalAttention | MultiScaleAttention]) -> Iterator[None]:
    """Have temporal attention see the frame itself and no other."""
    before = [{name: getattr(one, name) for name in ("window", "chunk") if hasattr(one, name)} for one in attentions]
    for attention, held in zip(attentions, before, strict=True):
        for name in held:
            setattr(attention, name, 1)
    try:
        yield
    finally:
        for attention, held in zip(attentions, before, strict=True):
            for name, value in held.items():
                setattr(attention, name, value)
