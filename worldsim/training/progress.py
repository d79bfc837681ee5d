"""What a run says while it trains: a progress bar with ETA, TensorBoard scalars, and held-out error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.engine.sampler import levels, sample
from worldsim.errors import MissingExtra
from worldsim.model.config import ModelConfig
from worldsim.model.cue import cues
from worldsim.model.patches import unpatchify
from worldsim.model.world_model import WorldModel
from worldsim.training.loss import REACH, moved


class Scalars:
    """TensorBoard scalars in a run folder.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "train") from error
        # What was written from this step on is of steps that are taken again.
        self._writer: Any = SummaryWriter(str(folder), purge_step=step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record values at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


@torch.inference_mode()
def held_out_error(
    model: WorldModel, store: ClipStore, clips: int, seed: int = 0, steps: int = 1, shift: float = 1.0
) -> dict[str, float]:
    """Error one frame ahead on held-out clips, of one denoising step from pure noise: a roll-out's first guess.

    The mean training loss misleads: it is ruled by still pixels and low noise.

    Args:
        model: On the device to use.
        store: Held-out clips.
        clips: How many to draw.
        seed: Of the draw; the same clips and noise for every model.
        steps: Denoising steps; with more than one it is the error of a frame that was chosen, not of the guess.
        shift: Of their noise levels, see :func:`~worldsim.engine.sampler.levels`.

    Returns:
        Root mean square error in grey levels (0-255) of pixels near what has just ``moved``, and of ``all``. Not of
        those that change next: judged there alone, a model that draws all that may follow does best.
    """
    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    parts: list[tuple[Tensor, Tensor]] = []
    for place in range(clips):
        clip, rng = store.draw(seed, 0, place)
        frames = torch.from_numpy(clip.frames)[None].to(device)
        actions = torch.from_numpy(clip.actions)[None].to(device)
        told = cues(actions, torch.from_numpy(clip.since[:-1]).to(device), model.config)
        patches = model.see(frames, dtype)
        previous = model.previous_actions(actions)
        views = model.views(patches)
        context = model.encode(views, previous, torch.zeros_like(previous))[0, :-1]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(context.shape[0], *patches.shape[2:], generator=generator).to(device, dtype)
        scene = model.scene(context, views[0, :-1])

        def denoise(x: Tensor, t: float, scene: Tensor = scene, cue: Tensor = told[0]) -> Tensor:
            level = torch.full((len(x),), t, device=x.device, dtype=x.dtype)
            size = torch.full_like(level, 1 / steps)
            return model.denoise(x, scene, model.modulations(level, cue, size))

        parts.append((sample(denoise, noise, levels(steps, shift)), patches[0]))
    return frame_error(parts, model.config)


def frame_error(parts: Iterable[tuple[Tensor, Tensor]], layout: ModelConfig) -> dict[str, float]:
    """Root mean square errors in grey levels of frames made one ahead.

    Args:
        parts: Of some clips, made frames x0 [T-1, L, P], and all recorded ones [T, L, P].
        layout: Says how patches lie.

    Returns:
        See :func:`held_out_error`.
    """
    near, total, count, pixels = 0.0, 0.0, 0.0, 0.0
    for x0, patches in parts:
        error = (x0.float() - patches[1:].float()).mul(127.5).square()
        seen = unpatchify(patches[:-1], layout)
        where = moved(torch.cat((seen[:1], seen[:-1])), seen, REACH)
        near += float((unpatchify(error, layout) * where[..., None]).sum())
        count += 3 * float(where.sum())
        total += float(error.sum())
        pixels += error.numel()
    return {"moved": (near / max(1.0, count)) ** 0.5, "all": (total / pixels) ** 0.5}
