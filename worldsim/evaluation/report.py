"""An evaluation as files: all numbers as JSON, the tables as Markdown."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.errors import WorldsimError
from worldsim.evaluation.bars import Bar
from worldsim.machine import short
from worldsim.vision.reading import IN_STEP


def write(path: Path, text: str) -> None:
    """Write a file in one piece.

    Raises:
        WorldsimError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WorldsimError(f"cannot write {path}: {error.strerror or error}; name another folder with out=") from error


def as_json(report: Mapping[str, Any]) -> str:
    """The report as strict JSON: NaN (nothing to measure) becomes null, infinity (a missing object) ``"missing"``."""
    return json.dumps(_plain(report), indent=1, allow_nan=False) + "\n"


def as_lines(rows: Sequence[Bar]) -> list[str]:
    """Bars for a terminal, a line each."""
    words, lines = {True: "pass", False: "FAIL", None: "-"}, []
    for bar in rows:
        value = "-" if bar.value is None else f"{bar.value:.3f}"
        asked = f"{'>=' if bar.at_least else '<='} {bar.target:g}"
        lines.append(f"{words[bar.passed]:<5}{bar.part:<9}{bar.text:<62}{value:>8}  ({asked}; {bar.note})")
    return lines


def as_markdown(report: Mapping[str, Any], rows: Sequence[Bar]) -> str:
    """The report as tables for people."""
    about = report["about"]
    lines = [
        f"# {about['world']} against {about['source']}",
        "",
        f"`{about['command']}`",
        "",
        made(about),
        "",
        "Took " + ", ".join(f"{part} {seconds:.0f} s" for part, seconds in report["seconds"].items()) + ".",
        "",
        *bar_table(rows),
        *(["", f"Left out are {about['left_out']}."] if "left_out" in about else []),
    ]
    for part, section in SECTIONS.items():
        if report.get(part):
            lines += ["", f"## {part.title()}", "", *section(report[part])]
    return "\n".join(lines) + "\n"


def made(about: Mapping[str, Any]) -> str:
    """How a report came about, in one line."""
    box = about["machine"]
    quick = "**A quick look: too little to judge by.** " if about["quick"] else ""
    shift = "" if about.get("shift", 1.0) == 1 else f" at levels shifted by {about['shift']:g}"
    return (
        f"{quick}Weights {about['fingerprint'][:12]}, {about['steps']} denoising steps{shift}, {about['dtype']}, "
        f"{about.get('backend', 'eager')}, "
        f"seed {about['seed']}, commit {short(about['commit'])}; "
        f"{box['cpu']}, {about.get('threads', box['torch_threads'])} threads, torch {box['torch']}."
    )


def bar_table(rows: Sequence[Bar]) -> list[str]:
    """The bars as a Markdown table."""
    words = {True: "pass", False: "**FAIL**", None: "not measured"}
    lines = []
    for bar in rows:
        asked = f"{'>=' if bar.at_least else '<='} {bar.target:g}"
        lines.append([bar.part, bar.text, asked, _figure(bar.value), words[bar.passed], bar.note])
    return table(["part", "bar", "asked", "measured", "", "of"], lines)


def _reader(part: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, f["agreement"], f["single"], f["error_median"], f["error_p90"], f["error_max"], f["frames"]]
        for name, f in part.items()
    ]
    head = ["object", "presence agrees", "single where there", "px off, median", "p90", "max", "frames"]
    return ["What the reader sees on real held-out frames, against the game's own state.", "", *table(head, rows)]


def _control(part: Mapping[str, Any]) -> list[str]:
    lines = []
    inverse = part["inverse_dynamics"]
    rows = [
        [name, share, inverse["real"]["by_class"][name], inverse["dream"]["by_class"][name]]
        for name, share in inverse["classes"].items()
    ]
    rows.append(["all", 1.0, inverse["real"]["overall"], inverse["dream"]["overall"]])
    lines += table(["actions that look alike", "share", "told on real frames", "told in the dream"], rows)
    if "player" in part:
        horizons = list(part["player"]["error"])
        rows = [
            [name, *(f"{_figure(at[h]['median'])} / {_figure(at[h]['p90'])}" for h in horizons)]
            for name, at in [*part["player"]["by_action"].items(), ("all", part["player"]["error"])]
        ]
        head = ["player, px off (median / p90)", *(f"{h} s" for h in horizons)]
        lines += ["", *table(head, rows)]
    return lines


def _objects(part: Mapping[str, Any]) -> list[str]:
    lines = (
        [] if part["counts"] else ["Read by a probe that sees no second object of a kind: single means present.", ""]
    )
    for name, found in part["by_object"].items():
        rows = [
            [f"{h} s", at["median"], at["p90"], at.get("in_step"), at["present"], at["single"], at["roll_outs"]]
            for h, at in found["errors"].items()
        ]
        rows.append(["all ticks", None, None, None, found["present"], found["single"], part["roll_outs"]])
        lines += [
            *table([name, "px off, median", "p90", f"within {IN_STEP:g} px", "present", "single", "roll-outs"], rows),
            "",
        ]
        lines += [
            f"Where the real {name} is single, the dream shows none in {found['missing']:.3f}, several in "
            f"{found['several']:.3f}, one of another size in {found['wrong_size']:.3f}; where there is no real one, it "
            f"shows one in {_figure(found['invented'])}.",
            "",
        ]
    if walls := part.get("tiles"):
        head = ["tiles", "minutes broken", "came back", "stay broken, a minute", "broke", "of these untouched"]
        keys = "minutes", "back", "kept", "broke", "untouched"
        lines += table(head, [[side, *(walls[side][key] for key in keys)] for side in ("dream", "real")])
        lines += ["", f"At the end {walls['alike']:.3f} of all tiles are there or gone as in the real game.", ""]
    return lines[:-1]


def _motion(part: Mapping[str, Any]) -> list[str]:
    lines = [f"One frame ahead of real frames, in {part['clips']} stretches of held-out play."]
    for name, kinds in part["by_object"].items():
        keys = "frames", "median", "p90", "wrong", "single", "error", "share"
        rows = [[kind, *(f.get(key) for key in keys)] for kind, f in kinds.items()]
        head = [
            f"the real {name}",
            "frames",
            "px off, median",
            "p90",
            "missing or over 1 px off",
            "single",
            "error of the frame",
            "share of all error",
        ]
        lines += ["", *table(head, rows)]
    return lines


def _fidelity(part: Mapping[str, Any]) -> list[str]:
    rows = [[f"{h} s", at["psnr"], at["ssim"], at["still"]] for h, at in part["at"].items()]
    lines = table(["at", "PSNR dB", "SSIM", "PSNR of standing still"], rows)
    rows = [[name, at["dream_to_real"], at["halves"]] for name, at in part["frechet"].items()]
    return [*lines, "", *table(["Frechet distance", "dream to real", "real to real"], rows)]


def _outcome(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in ("+1", "-1"):
        for key in ("exact", "within_1"):
            rows.append([f"{name}, {key.replace('_', ' ')}", *_scores(part[name][key])])
    rows += [[f"end, {key}", *_scores(part["end"][key])] for key in part["end"]]
    for where, found in part.get("points", {}).items():
        rows += [[f"{sign} in the pictures, {where}", *_scores(found[sign])] for sign in ("+1", "-1")]
    chances = "; ".join(
        f"{name}: {_figure(part[name]['chance_at'])} where it was, {_figure(part[name]['chance_elsewhere'])} elsewhere"
        for name in ("+1", "-1")
    )
    about = f"{part['ticks']} held-out ticks. Probability given to a reward, on average: {chances}."
    return [about, "", *table(["", "precision", "recall", "said", "true"], rows)]


def _diversity(part: Mapping[str, Any]) -> list[str]:
    places = {
        f"{part['serves']} real serves": part["real"],
        "all futures": part["dream"],
        "those of one moment, on average": part["one_moment"],
    }
    names = [*part["real"]]
    rows = [[place, *(found.get(name) for name in names)] for place, found in places.items()]
    return [
        f"{part['futures']} futures of each of {part['moments']} moments just before a ball is served, under the "
        f"recorded actions. One ball flies in {part['served']:.3f} of them, of these as the recorded one did in "
        f"{_figure(part['as_recorded'])}; their directions are {part['distance']:.3f} from those of real serves (total "
        "variation). Directions are how many are in use (the exponential of the entropy), spread is that of the balls' "
        f"places {part['flight']} ticks later, px.",
        "",
        *table(["", *names], rows),
    ]


def _drift(part: Mapping[str, Any]) -> list[str]:
    head = ["policy", "rate", "dream, whole", "real, whole", "dream, end", "real, end", "difference", "standard error"]
    rows = []
    for policy, found in part["policies"].items():
        for name in found["whole"]:
            whole, last = found["whole"][name], found["last"][name]
            rows.append(
                [
                    policy,
                    name,
                    whole["dream"],
                    whole["real"],
                    last["dream"],
                    last["real"],
                    last["difference"],
                    last["standard_error"],
                ]
            )
    walls = [
        [policy, *(found["tiles"][key] for key in ("minutes", "back", "kept", "broke", "untouched"))]
        for policy, found in part["policies"].items()
        if "tiles" in found
    ]
    words = ["tiles of the dream", "minutes broken", "came back", "stay broken, a minute", "broke", "untouched"]
    along = [[f"{at['from']:.0f}", at["dream_to_real"], at["real_to_real"]] for at in part["frechet"]]
    return [
        f"{part['rows']} dreams of {part['minutes']:g} minutes under each policy, never reset, beside the real game "
        "from the same moments; a real game that is over goes on from another moment. "
        f"The end is the last {part['last_seconds']:g} s.",
        "",
        *table(head, rows),
        *(["", *table(words, walls)] if walls else []),
        *_held(part),
        "",
        *table(["from, s", "Frechet distance, dream to real", "half of the real games to the rest"], along),
    ]


def _share(ball: Mapping[str, int]) -> float:
    return ball["sharp"] / max(1, ball["frames"])


def _held(part: Mapping[str, Any]) -> list[str]:
    """How long dreams end, beside how they began."""
    if "early_from" not in part:
        return []
    rows = [
        [policy, name, at["dream"], found["last"][name]["dream"], at["real"], found["last"][name]["real"]]
        for policy, found in part["policies"].items()
        for name, at in found["early"].items()
    ]
    first = f"after {part['early_from']:g} s"
    head = ["policy", "rate", f"dream, {first}", "dream, end", f"real, {first}", "real, end"]
    balls = [
        [policy, *(_share(at[who]) for who in ("dream", "real") for at in found["sharp"].values())]
        for policy, found in part["policies"].items()
        if "sharp" in found
    ]
    words = ["one sharp ball, where there is one", *head[2:]]
    return ["", *table(head, rows), *(["", *table(words, balls)] if balls else [])]


SECTIONS = {
    "reader": _reader,
    "control": _control,
    "objects": _objects,
    "motion": _motion,
    "fidelity": _fidelity,
    "outcome": _outcome,
    "diversity": _diversity,
    "drift": _drift,
}


def _scores(found: Mapping[str, Any]) -> list[Any]:
    return [found["precision"], found["recall"], found["said"], found["true"]]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table, line by line."""
    cells = [list(head), ["---"] * len(head), *([_figure(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        if math.isinf(value):
            return "missing"
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "missing"
    return value
