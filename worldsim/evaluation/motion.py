"""Motion: one frame ahead of real play, by how fast an object moves there and whether it turns.

A roll-out that lost the ball does not say where. Here every frame follows from real ones, so nothing adds up, and what
a world has not learned stands alone: fast balls, bounces, balls that come into play. The squared error of the whole
frame, weighted as in training, is told by the same kinds: what a loss still consists of is what to work on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.sampler import levels
from worldsim.evaluation.moments import Moment
from worldsim.evaluation.subject import Subject, spread
from worldsim.model.cue import cues
from worldsim.model.patches import to_uint8
from worldsim.training.loss import REACH, LossConfig, moved
from worldsim.training.own import own_frames
from worldsim.vision.reading import Reading, distance

SPEEDS = (0.0, 0.4, 1.0, 2.0, 3.0)  # lower edges, pixels a tick
TURN = 0.5  # px a tick of change in velocity: more than a reader's noise, less than any bounce
WRONG = 1.0  # px


def measure(subject: Subject) -> dict[str, Any]:
    """Error one frame ahead of held-out play, by object and by what it does in the real game.

    Returns:
        For every object and every kind of motion that occurs: ``frames``, ``median`` and ``p90`` of the error in
        pixels (infinite if the object is missing), ``wrong`` (the share further off than a pixel, or missing),
        ``single`` (the share where exactly one is there, of the real size), ``error`` (of the whole frame, mean of
        1000 times the weighted square of values in [-1, 1]) and ``share`` of that in all frames. Where the object is
        not there, only the last two.

    Raises:
        AssertionError: the subject has no reader.
    """
    assert subject.reader
    moments = subject.moments(subject.extent.motion_clips, 3 * subject.window)
    real = np.stack([np.concatenate((moment.start.frames, moment.frames)) for moment in moments], 1)
    made = _one_ahead(subject, moments)
    seen, dreamed = subject.reader.read(real[subject.window - 2 :]), subject.reader.read(made[subject.window - 1 :])
    errors = frame_errors(made[subject.window - 1 :], real[subject.window - 1 :])
    table = {name: compare(dreamed[name], seen[name], errors) for name in subject.reader.objects}
    return {"clips": len(moments), "by_object": table}


def compare(dreamed: Reading, real: Reading, errors: NDArray[np.float64]) -> dict[str, Any]:
    """One kind of object: readings [T, N] of the dream and [T+2, N] of the real game, which begins two ticks before,
    and errors of the frames [T, N].
    """
    apart = distance(dreamed, real[2:])
    total = max(float(errors.sum()), 1e-12)

    def part_of(rows: NDArray[np.bool_]) -> dict[str, float]:
        return {"error": float(errors[rows].mean()), "share": float(errors[rows].sum()) / total}

    table: dict[str, Any] = {}
    for kind, rows in _kinds(real).items():
        table[kind] = _figures(apart[rows], dreamed.single[rows]) | part_of(rows)
    gone = ~real.present[2:]
    if gone.any():
        table["is not there"] = {"frames": int(gone.sum())} | part_of(gone)
    return table


def frame_errors(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> NDArray[np.float64]:
    """1000 times the weighted mean square [T, N] of made frames [T, N, H, W, 3] less real ones [T+1, N, H, W, 3], which
    begin a tick before; values are in [-1, 1]; what is near what has just moved weighs as in training.
    """
    found = []
    for row in range(made.shape[1]):  # a row at a time: floats take room
        shown = torch.from_numpy(real[:-1, row]) / 127.5
        near = moved(torch.cat((shown[:1], shown[:-1])), shown, REACH)[..., None].numpy()
        apart = (made[:, row].astype(np.float32) - real[1:, row]) / 127.5
        found.append(((1 + (LossConfig().moved_weight - 1) * near) * apart**2).mean((1, 2, 3)))
    return 1000 * np.stack(found, 1).astype(np.float64)


def _one_ahead(subject: Subject, moments: list[Moment]) -> NDArray[np.uint8]:
    """Frames 1 ... T-1 of every moment's T real ones, each made from the real ones before it: [T-1, N, H, W, 3]."""
    settings, world = subject.settings, subject.world
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    model, c = world.model_on(device, dtype), world.config.model
    at = levels(settings.steps or world.config.steps, world.config.shift)

    @torch.inference_mode()
    def run(number: int) -> NDArray[np.uint8]:
        moment = moments[number]
        frames = torch.from_numpy(np.concatenate((moment.start.frames, moment.frames)))[None].to(device)
        actions = torch.from_numpy(np.concatenate((moment.start.actions, moment.actions)))[None].to(device)
        told = cues(actions, torch.from_numpy(moment.since)[None].to(device), c)
        clean = model.see(frames, dtype)
        previous = model.previous_actions(actions)
        generator = torch.Generator().manual_seed(settings.seed + number)
        noise = torch.randn(1, actions.shape[1], c.tokens, c.patch_dim, generator=generator).to(device, dtype)
        made = own_frames(model, clean, previous, told, noise, at)
        advance(actions.shape[1])
        return to_uint8(model.unpatchify(made[0, 1:].float())).cpu().numpy()

    total = sum(len(moment.start.actions) + len(moment.actions) for moment in moments)
    with subject.progress("motion", total) as advance, ThreadPoolExecutor(settings.workers) as pool:
        return np.stack(list(pool.map(run, range(len(moments)))), 1)


def _kinds(seen: Reading) -> dict[str, NDArray[np.bool_]]:
    """Which of the frames 2 ... T-1 [T-2, N] show an object that comes, turns, or moves on at some speed."""
    there = seen.present
    x, y = (np.where(there, axis, np.nan) for axis in (seen.x, seen.y))
    step_x, step_y = np.diff(x, axis=0), np.diff(y, axis=0)
    speed = np.hypot(step_x, step_y)[1:]
    turns = np.hypot(np.diff(step_x, axis=0), np.diff(step_y, axis=0)) > TURN
    kinds = {"all": there[2:], "comes into view": there[2:] & ~there[1:-1], "turns": turns}
    steady = there[2:] & there[1:-1] & there[:-2] & ~turns
    for low, high in zip(SPEEDS, (*SPEEDS[1:], np.inf), strict=True):
        until = f"{low:g} to {high:g}" if high < np.inf else f"{low:g} and more"
        kinds[f"goes on at {until} px a tick"] = steady & (speed >= low) & (speed < high)
    return {kind: rows for kind, rows in kinds.items() if rows.any()}


def _figures(apart: NDArray[np.float64], single: NDArray[np.bool_]) -> dict[str, Any]:
    median, high = spread(apart)
    return {
        "frames": int(apart.size),
        "median": median,
        "p90": high,
        "wrong": float((apart > WRONG).mean()),
        "single": float(single.mean()),
    }
