"""Outcome: are rewards and the end of an episode predicted when they happen, and only then?"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.episodes import Episode
from worldsim.engine.cache import make_cache
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.referee import Lives
from worldsim.evaluation.events import points, score
from worldsim.evaluation.subject import Subject
from worldsim.model.trail import after
from worldsim.vision.reading import Readings

STRETCH = 400  # ticks of an episode that run as one row of a batch
SIGNS = {"+1": 1, "-1": -1}
LATE = 3  # ticks between a point in the picture and its reward: the ball can be out of sight before it counts


def measure(subject: Subject) -> dict[str, Any]:
    """Rewards and ends on held-out real play, every real frame fed to the encoder as a roll-out would feed it."""
    episodes: list[Episode] = []
    budget = subject.extent.outcome_ticks or None
    for info in subject.dataset.held_out:
        if budget is None or sum(map(len, episodes)) < budget:
            episodes.append(subject.dataset.load(info))
    rewards, ends, chances = predict(subject, episodes)
    report: dict[str, Any] = {"ticks": sum(map(len, episodes)), "episodes": len(episodes)}
    true = [np.sign(episode.rewards).astype(np.int64) for episode in episodes]
    for name, sign in SIGNS.items():
        said = _column([row == sign for row in rewards])
        real = _column([row == sign for row in true])
        chance = np.concatenate([row[:, 1 + sign] for row in chances])
        at = np.concatenate([row == sign for row in true])
        report[name] = {
            "exact": score(said, real),
            "within_1": score(said, real, 1),
            # What the head gives the sign, on average, where it was and where it was not: does it know at all?
            "chance_at": float(chance[at].mean()) if at.any() else float("nan"),
            "chance_elsewhere": float(chance[~at].mean()) if not at.all() else float("nan"),
        }
    report["end"] = _ends(subject, episodes, rewards, ends)
    return report


def predict(
    subject: Subject, episodes: Sequence[Episode]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.bool_]], list[NDArray[np.float32]]]:
    """Predicted sign of the reward, end, and probabilities of the signs -1, 0, +1, for every tick of real episodes.

    int64 [T], bool [T] and float32 [T, 3] for each episode.

    Episodes are cut in stretches that run side by side, each after ``window`` real frames like a dream's start.
    """
    window, device = subject.window, pick_device(subject.settings.device)
    dtype = pick_dtype(subject.settings.dtype, device)
    model = subject.world.model_on(device, dtype)
    jobs = [(e, first) for e, episode in enumerate(episodes) for first in range(0, len(episode), STRETCH)]
    rewards = [np.zeros(len(episode), np.int64) for episode in episodes]
    ends = [np.zeros(len(episode), np.bool_) for episode in episodes]
    chances = [np.zeros((len(episode), 3), np.float32) for episode in episodes]
    rows = subject.settings.batch
    total = sum(min(len(episodes[e]), first + STRETCH) - max(0, first - window) + 1 for e, first in jobs)

    @torch.inference_mode()
    def run(batch: list[tuple[int, int]]) -> None:
        begins = [max(0, first - window) for _, first in batch]
        lasts = [min(len(episodes[e]), first + STRETCH) for e, first in batch]
        cache, before = make_cache(model, len(batch)), None
        told = torch.ones(len(batch), dtype=torch.int64, device=device)
        level = torch.full((len(batch),), subject.world.config.context_level, device=device)
        trail = torch.full_like(level, model.no_action)
        for step in range(max(last - begin for last, begin in zip(lasts, begins, strict=True)) + 1):
            # A row that is done repeats its last frame; what it says then is not used.
            at = [min(begin + step, last) for begin, last in zip(begins, lasts, strict=True)]
            frames = np.stack([episodes[e].frames[t] for (e, _), t in zip(batch, at, strict=True)])
            if step:
                past = [int(episodes[e].actions[t - 1]) for (e, _), t in zip(batch, at, strict=True)]
                trail = after(trail, torch.tensor(past, device=device), model.config)
            view = before = model.view(model.see(torch.from_numpy(frames).to(device), dtype), before)
            context, key, value = model.encode_step(view, trail, level, cache.keys, cache.values, cache.bias())
            cache.write(key, value)
            logits = model.outcome(context, view, told)[:2]
            # As after a session's reset: nothing was told before the stretch begins.
            inside = torch.tensor([t > first for (_, first), t in zip(batch, at, strict=True)], device=device)
            told = torch.where(inside, logits[0].argmax(-1), 1)
            reward_logits, end_logits = (part.float().cpu() for part in logits)
            reward, end = reward_logits.argmax(-1).numpy(), end_logits.argmax(-1).numpy()
            chance = reward_logits.softmax(-1).numpy()
            for row, ((e, first), t) in enumerate(zip(batch, at, strict=True)):
                if begins[row] + step <= lasts[row]:
                    advance(1)
                    if t > first:  # the frame that reward t - 1 is read from
                        rewards[e][t - 1], ends[e][t - 1] = reward[row] - 1, end[row] == 1
                        chances[e][t - 1] = chance[row]

    workers = ThreadPoolExecutor(subject.settings.workers)
    with subject.progress("outcome", total) as advance, workers as pool:
        list(pool.map(run, [jobs[i : i + rows] for i in range(0, len(jobs), rows)]))
    return rewards, ends, chances


def _ends(
    subject: Subject, episodes: Sequence[Episode], rewards: list[NDArray[np.int64]], ends: list[NDArray[np.bool_]]
) -> dict[str, Any]:
    """The end by the head alone, and as a session says it: by predicted rewards where there is a score limit. In a
    game with lives, those that are lost.
    """
    true = _column([episode.terminated for episode in episodes])
    config = subject.world.config
    if config.lives is not None:  # the head tells lost lives, of which those count that a session would count
        once = [_lost(row, config.shortest_life) for row in ends]
        return {"lives": score(_column(once), true, LATE) | {"tolerance": LATE}}
    limit, told = config.score_limit, []
    for row, head in zip(rewards, ends, strict=True):
        over = head
        if limit is not None:
            over = np.maximum(np.cumsum(row > 0), np.cumsum(row < 0)) >= limit
        first = np.zeros_like(over)
        if over.any():
            first[int(np.argmax(over))] = True  # an episode ends once
        told.append(first)
    return {"head": score(_column(ends), true), "session": score(_column(told), true, 1)}


def _lost(told: NDArray[np.bool_], shortest: int | None) -> NDArray[np.bool_]:
    """Of the ticks [T] in which a lost life is told, those in which one counts, however many there are."""
    lives, playing = Lives(1, len(told) + 1, shortest), np.ones(1, bool)
    return np.array([lives.lose(told[at : at + 1], playing)[0] for at in range(len(told))], bool)


def in_pictures(readings: Readings, rewards: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Points seen in pictures against the rewards that came with them; both [T, N].

    Precision: rewards that follow a point in the picture; recall: points in the picture that are rewarded.
    """
    seen = points(readings)
    return {name: score(rewards == sign, seen == sign, LATE) | {"tolerance": LATE} for name, sign in SIGNS.items()}


def _column(rows: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Rows of different lengths side by side, bool [T, N], padded with nothing."""
    table = np.zeros((max(map(len, rows), default=0), len(rows)), np.bool_)
    for n, row in enumerate(rows):
        table[: len(row), n] = row
    return table
