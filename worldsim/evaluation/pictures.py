"""Pictures of an evaluation: roll-out grid, side-by-side GIF, curves, and what drifted dreams look like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import MissingExtra
from worldsim.evaluation.subject import Subject
from worldsim.vision.reading import distance

GRID_SECONDS = (1 / 30, 1 / 6, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
GRID_STARTS = 6
GIF_STARTS = 4
DREAM, REAL = "#d1495b", "#30638e"


def require_plots() -> None:
    """Find out before the work, not after it.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    pyplot()


def draw(
    subject: Subject, report: Mapping[str, Any], drifted: Mapping[str, NDArray[np.uint8]] | None, out: Path
) -> list[str]:
    """Draw what the report has; returns the files' names."""
    files = []
    if "objects" in report or "fidelity" in report:
        roll_out_grid(subject, out / "roll_outs.png")
        roll_out_gif(subject, out / "roll_outs.gif")
        files += ["roll_outs.png", "roll_outs.gif"]
    if "objects" in report:
        curves(subject, report, out / "curves.png")
        files.append("curves.png")
    if report.get("diversity"):
        served_balls(report["diversity"], subject.source.width, subject.source.height, out / "diversity.png")
        files.append("diversity.png")
    if "drift" in report:
        drift_curves(report["drift"], out / "drift.png")
        files.append("drift.png")
        if drifted:
            drift_frames(drifted, report["drift"]["seconds"], out / "drift_frames.png")
            files.append("drift_frames.png")
    return files


def roll_out_grid(subject: Subject, path: Path, scale: int = 3) -> None:
    """Real above dream at several times, from several moments, with what the reader sees under each dreamed frame."""
    rolls, fps = subject.roll_outs, subject.fps
    ticks = [t for t in (subject.ticks(s) - 1 for s in GRID_SECONDS) if t < len(rolls.actions)]
    strips = []
    for start in _some(len(rolls.moments), GRID_STARTS):
        titles = ["last real frame", *(f"{(tick + 1) / fps:.2f} s" for tick in ticks)]
        real, dreamed = ([frames[tick, start] for tick in ticks] for frames in (rolls.real, rolls.dreamed))
        before = rolls.before[start]
        strips.append(
            np.concatenate([_panel(f, scale, [t], "real") for f, t in zip([before, *real], titles, strict=True)], 1)
        )
        words = [["the dream of it,", "under the same", "actions"], *(_caption(subject, tick, start) for tick in ticks)]
        strips.append(
            np.concatenate([_panel(f, scale, w, "dream") for f, w in zip([before, *dreamed], words, strict=True)], 1)
        )
    cv2.imwrite(str(path), np.concatenate(strips, 0)[..., ::-1])


def roll_out_gif(subject: Subject, path: Path, scale: int = 4) -> None:
    """Real and dream side by side under the same actions, from a few moments at once."""
    require_plots()
    from PIL import Image

    rolls = subject.roll_outs
    starts = _some(len(rolls.moments), GIF_STARTS)
    gap = 4
    pictures = []
    for tick in range(-1, len(rolls.actions)):
        pairs = []
        for start in starts:
            pair = [(rolls.before if tick < 0 else frames[tick])[start] for frames in (rolls.real, rolls.dreamed)]
            big = [frame.repeat(scale, 0).repeat(scale, 1) for frame in pair]
            pairs.append(np.concatenate([big[0], np.full((big[0].shape[0], gap, 3), 255, np.uint8), big[1]], 1))
        rows = [
            np.concatenate(_spaced(pairs[i : i + 2], 3 * gap, 1), 1) for i in range(0, len(pairs) - len(pairs) % 2, 2)
        ]
        picture = np.concatenate(_spaced(rows or pairs[:1], 3 * gap, 0), 0)
        banner = np.full((26, picture.shape[1], 3), 255, np.uint8)
        text = f"left: real, right: dream, {(tick + 1) / subject.fps:.2f} s"
        cv2.putText(banner, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
        pictures.append(Image.fromarray(np.concatenate([banner, picture], 0)))
    # One palette for all: own ones flicker. It is taken from frames spread over the whole roll-out.
    sample = Image.fromarray(np.concatenate([np.asarray(p) for p in pictures[:: max(1, len(pictures) // 8)]], 0))
    palette = sample.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    frames = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / subject.fps / 10) * 10, loop=0)


def served_balls(part: Mapping[str, Any], width: int, height: int, path: Path) -> None:
    """Where balls are some ticks after they were served, in the real game and in dreamed futures."""
    plt = pyplot()
    titles = {
        "real": f"{part['serves']} real serves",
        "dream": f"{part['futures']} futures of {part['moments']} moments",
    }
    made, axes = plt.subplots(1, 2, figsize=(9, 4.6), sharex=True, sharey=True, layout="constrained")
    for axis, (place, title), colour in zip(axes, titles.items(), (REAL, DREAM), strict=True):
        x, y = np.array(part["places"][place]).reshape(-1, 2).T
        axis.plot(x, y, "o", color=colour, ms=5, alpha=0.4, mew=0)
        axis.set(title=f"{title}: {len(x)} balls", xlim=(0, width), ylim=(height, 0), aspect="equal")
        axis.set_xlabel(f"where the ball is {part['flight']} ticks after it came, px")
    _save(made, path)


def curves(subject: Subject, report: Mapping[str, Any], path: Path) -> None:
    """Errors and rates against time, by object."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2))
    for number, (name, found) in enumerate(report["objects"]["by_object"].items()):
        curve = found["curve"]
        seconds = (np.arange(len(curve)) + 1) / subject.fps
        colour = f"C{number}"
        left.plot(seconds, [_shown(at["error"][0]) for at in curve], color=colour, label=f"{name}, median")
        left.plot(seconds, [_shown(at["error"][1]) for at in curve], color=colour, ls=":", lw=1, label=f"{name}, p90")
        right.plot(seconds, [at["single"] for at in curve], color=colour, label=f"one {name} of the real size")
        right.plot(seconds, [at["present"] for at in curve], color=colour, ls=":", lw=1, label=f"{name} present")
    left.set(xlabel="seconds of dream", ylabel="pixels from the real one", title="position under the same actions")
    left.plot([1, 2], [1, 3], "kv", ms=5, label="bar for the ball")
    left.set_yscale("symlog", linthresh=1)
    right.axhline(0.97, color="k", lw=0.6, ls="--")
    right.set(
        xlabel="seconds of dream",
        ylabel="share of roll-outs",
        title="where the real roll-out shows it",
        ylim=(None, 1.02),
    )
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7)
    figure.tight_layout()
    _save(figure, path)


def drift_curves(drift: Mapping[str, Any], path: Path) -> None:
    """Rates along minutes of dreaming, beside the real game's, by policy."""
    plt = pyplot()
    policies = drift["policies"]
    rates = [name for name in next(iter(policies.values()))["along"][0]["dream"]]
    figure, axes = plt.subplots(
        len(policies),
        len(rates) + 1,
        figsize=(2.6 * (len(rates) + 1), 1.9 * len(policies) + 0.6),
        squeeze=False,
        sharex=True,
    )
    for row, (policy, found) in zip(axes, policies.items(), strict=True):
        seconds = [at["from"] + drift["window_seconds"] / 2 for at in found["along"]]
        for axis, rate in zip(row, rates, strict=False):
            axis.plot(seconds, [at["real"][rate] for at in found["along"]], color=REAL, label="real")
            axis.plot(seconds, [at["dream"][rate] for at in found["along"]], color=DREAM, label="dream")
            axis.set_ylim(-0.03, 1.03)
        row[-1].plot(seconds, [at["frechet"] for at in found["along"]], color=DREAM)
        row[-1].set_ylim(bottom=0)
        row[0].set_ylabel(policy, fontsize=9)
    for axis, rate in zip(axes[0], [*rates, "Frechet distance"], strict=True):
        axis.set_title(rate, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    for axis in axes.ravel():
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    _save(figure, path)


def drift_frames(drifted: Mapping[str, NDArray[np.uint8]], seconds: list[float], path: Path) -> None:
    """One dream of each policy along time."""
    plt = pyplot()
    figure, axes = plt.subplots(
        len(drifted), len(seconds), figsize=(1.75 * len(seconds), 1.85 * len(drifted) + 0.3), squeeze=False
    )
    for row, (policy, frames) in zip(axes, drifted.items(), strict=True):
        for axis, frame in zip(row, frames, strict=True):
            _show(axis, frame)
        row[0].set_ylabel(policy, fontsize=10)
    for axis, second in zip(axes[0], seconds, strict=True):
        axis.set_title(f"{second:g} s", fontsize=9)
    figure.tight_layout(pad=0.3)
    _save(figure, path)


def _panel(frame: NDArray[np.uint8], scale: int, lines: list[str], whose: str) -> NDArray[np.uint8]:
    """A frame enlarged, on white, with text below the dream and above the real one."""
    big = frame.repeat(scale, 0).repeat(scale, 1)
    height, width = big.shape[:2]
    above = 22 if whose == "real" else 4
    below = 4 if whose == "real" else 62
    panel = np.full((above + height + below, width + 8, 3), 255, np.uint8)
    panel[above : above + height, 4:-4] = big
    colour = {"real": (0x30, 0x63, 0x8E), "dream": (0xB0, 0x30, 0x45)}[whose]
    for number, text in enumerate(lines):
        bottom = 15 if whose == "real" else above + height + 17 + 18 * number
        cv2.putText(panel, text, (5, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return panel


def _caption(subject: Subject, tick: int, start: int) -> list[str]:
    """What the reader sees in one dreamed frame: how many of each object, and how far from the real one."""
    reader, rolls = subject.reader, subject.roll_outs
    if reader is None:
        return []
    ours = reader.read(rolls.dreamed[tick, start : start + 1])
    theirs = reader.read(rolls.real[tick, start : start + 1])
    lines = []
    for name in reader.objects[:3]:
        apart, count = float(distance(ours[name], theirs[name])[0]), int(ours[name].count[0])
        if np.isnan(apart):
            lines.append(f"{name}: {count}, real 0" if count else f"{name}: none, as real")
        elif np.isinf(apart):
            lines.append(f"{name}: {'too small' if count else 'lost'}")
        else:
            lines.append(f"{name}: {apart:.1f} px off" + (f", {count} of it" if count > 1 else ""))
    return lines


def _show(axis: Any, frame: NDArray[np.uint8]) -> None:
    axis.imshow(frame, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _some(count: int, wanted: int) -> list[int]:
    """Numbers spread over ``range(count)``."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted))})


def _shown(value: float) -> float:
    """Infinite errors (missing objects) leave a gap in a curve."""
    return value if np.isfinite(value) else float("nan")


def _spaced(pictures: list[NDArray[np.uint8]], gap: int, axis: int) -> list[NDArray[np.uint8]]:
    spaced: list[NDArray[np.uint8]] = []
    for picture in pictures:
        if spaced:
            shape = list(picture.shape)
            shape[axis] = gap
            spaced.append(np.full(shape, 255, np.uint8))
        spaced.append(picture)
    return spaced


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    pyplot().close(figure)


def pyplot() -> Any:
    """matplotlib's pyplot, set to draw into files.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("agg")  # files only, whatever the display
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error
    return plt
