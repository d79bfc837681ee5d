"""What a world must score, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worldsim.vision.reading import IN_STEP


@dataclass(frozen=True)
class Bar:
    """One figure that a world must reach.

    Attributes:
        part: Of the evaluation.
        text: What is asked.
        value: What was measured; infinite if the object was missing in most roll-outs, None if nothing was measured.
        target: The figure.
        at_least: Whether more is better.
        note: What the value is made of.
    """

    part: str
    text: str
    value: float | None
    target: float
    at_least: bool
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None if it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def to_json(self) -> dict[str, Any]:
        """The bar as plain values."""
        return {**vars(self), "passed": self.passed}


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """Every bar, from the parts of a report; parts that were left out give bars without a value."""
    ratio = _get(report, "control", "inverse_dynamics", "ratio")
    player = _get(report, "control", "player")
    seen = _get(report, "objects", "by_object")
    ball, recorded = _get(seen, "ball"), _get(seen, "player", "errors", "1")
    steady = _get(report, "objects", "steady")
    size = "exactly one ball of the real size, over 4 s"
    others = f"{' and '.join(steady['objects'])} there, over 4 s" if steady else "all other objects there, over 4 s"
    rows = [
        Bar("control", "actions told in the dream / on real frames", _value(ratio), 0.95, True, _accuracies(report)),
        Bar(
            "control",
            "player off after 1 s of any keys, median px",
            _median(player, "error"),
            0.5,
            False,
            _keys(player),
        ),
        Bar(
            "control",
            "player off after 1 s of recorded play, median px",
            _median(recorded),
            0.5,
            False,
            _count(recorded),
        ),
        Bar("objects", size, _value(_get(ball, "single")), 0.97, True, _failures(ball)),
        Bar("objects", others, _value(_get(steady, "all_present")), 0.99, True, _out_of_step(steady)),
    ]
    for horizon, most in (("1", 1.0), ("2", 3.0)):
        at = _get(ball, "errors", horizon)
        rows.append(Bar("objects", f"ball off after {horizon} s, median px", _median(at), most, False, _count(at)))
    names = list(_get(report, "drift", "policies") or ()) or ["every policy"]
    for policy in names:
        value, note = _worst(_get(report, "drift", "policies", policy, "last"))
        rows.append(Bar("drift", f"{policy}: rates off from the real game's at the end", value, 0.02, False, note))
    rows += _held(_get(report, "drift") or {})
    if walls := _get(report, "objects", "tiles"):
        rows += _tiles(walls, _get(report, "drift", "policies") or {})
    for sign in ("+1", "-1"):
        for figure in ("precision", "recall"):
            exact = _get(report, "outcome", sign, "exact") or {}
            near = _value(_get(report, "outcome", sign, "within_1", figure))
            note = f"{exact.get('true', 0)} points, {exact.get('said', 0)} said; within a tick {_short(near)}"
            rows.append(Bar("outcome", f"{figure} of {sign}, exact tick", _value(exact.get(figure)), 0.9, True, note))
    lives = _get(report, "outcome", "end", "lives") or {}
    note = f"{lives.get('true', 0)} lost, {lives.get('said', 0)} said"
    for figure in ("precision", "recall") if lives else ():
        text = f"{figure} of lost lives, within {lives['tolerance']} ticks"
        rows.append(Bar("outcome", text, _value(lives.get(figure)), 0.9, True, note))
    return rows


def _tiles(walls: Mapping[str, Any], policies: Mapping[str, Any]) -> list[Bar]:
    """Bars of a game with tiles; of long dreams where there are some."""
    dreams = [found["tiles"] for found in policies.values()] or [walls["dream"]]
    minutes, back, broke = (sum(found[key] for found in dreams) for key in ("minutes", "back", "broke"))
    alone = sum(found["untouched"] * found["broke"] for found in dreams if found["broke"])
    real = f"{walls['real']['untouched']:.3f} of {walls['real']['broke']} as read in the real game"
    return [
        Bar(
            "drift" if policies else "objects",
            "minutes that a broken tile stays broken, share",
            1 - back / minutes if minutes else None,
            0.995,
            True,
            f"{minutes:.0f} minutes of tiles, {back} came back",
        ),
        Bar(
            "drift" if policies else "objects",
            "tiles that break untouched, share",
            alone / broke if broke else None,
            0.02,
            False,
            f"of {broke}; {real}",
        ),
    ]


def _held(drift: Mapping[str, Any]) -> list[Bar]:
    """Whether long dreams end as they begin: their rates, how far they are from the real game, and their balls."""
    if "early_from" not in drift:
        return []
    first, found = f"{drift['early_from']:g} s", drift["policies"]
    rows = []
    for policy, at in found.items():
        rates = {
            name: (rate["dream"], at["last"][name]["dream"], rate["real"], at["last"][name]["real"])
            for name, rate in at["early"].items()
            if not name.startswith("several")
        }
        name = max(rates, key=lambda key: abs(rates[key][0] - rates[key][1]))
        before, after, *real = rates[name]
        note = f"{name}: {before:.3f}, then {after:.3f}; real {real[0]:.3f}, {real[1]:.3f}"
        text = f"{policy}: rates at the end off from those after {first}"
        rows.append(Bar("drift", text, abs(before - after), 0.05, False, note))
    near, far = (drift["frechet_held"][name] for name in ("early", "last"))
    text, note = f"Frechet distance at the end / after {first}", f"{far:.3f} / {near:.3f}, {drift['minutes']:g} minutes"
    rows.append(Bar("drift", text, _value(far / near) if near else None, 1.05, False, note))
    for name, when in (("early", f"after {first}"), ("last", "at the end")):
        balls = [at["sharp"][name] for at in found.values() if "sharp" in at]
        if not balls:
            continue
        shown, sharp, real, of_real = (
            sum(ball[who][key] for ball in balls) for who in ("dream", "real") for key in ("frames", "sharp")
        )
        note = f"of {shown} frames that show a ball; {of_real / max(1, real):.3f} in the real game"
        share = sharp / shown if shown else 0.0
        rows.append(Bar("drift", f"one sharp ball (+-25 %) {when}, where there is one", share, 0.95, True, note))
    return rows


def _get(tree: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _value(number: Any) -> float | None:
    return None if number is None or math.isnan(number) else float(number)


def _median(tree: Any, *path: str) -> float | None:
    if path:
        tree = _get(tree, *path, "1")
    return _value(_get(tree, "median"))


def _keys(player: Any) -> str:
    """How many roll-outs, and the action whose median is worst: held keys that end at an edge flatter the whole."""
    if not player:
        return ""
    medians = {name: at["1"]["median"] for name, at in player["by_action"].items()}
    worst = max(medians, key=lambda name: medians[name])
    return f"{player['roll_outs']} roll-outs; worst, {worst}: {medians[worst]:.2f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _accuracies(report: Mapping[str, Any]) -> str:
    found = _get(report, "control", "inverse_dynamics")
    if not found:
        return ""
    most = max(found["classes"].values())
    return f"{found['dream']['overall']:.3f} / {found['real']['overall']:.3f}, commonest action {most:.3f}"


def _failures(ball: Any) -> str:
    if not ball:
        return ""
    told = f"none {ball['missing']:.3f}, several {ball['several']:.3f}, wrong size {ball['wrong_size']:.3f}"
    return "; ".join(filter(None, (told, _out_of_step(ball))))


def _out_of_step(seen: Any) -> str:
    """What a real game would score that has nothing to do with the one it is held against; old reports do not know."""
    return f"{seen['usual']:.3f} of a real game out of step" if seen and "usual" in seen else ""


def _count(at: Any) -> str:
    """Of how many roll-outs, and how many of them still show what the recording does; old reports do not know."""
    if not at:
        return ""
    within = f"; within {IN_STEP:g} px in {at['in_step']:.3f}" if "in_step" in at else ""
    return f"{at['roll_outs']} roll-outs{within}"


def _worst(rates: Any) -> tuple[float | None, str]:
    """The largest difference of presence and one-ball rates, and which it is."""
    if not rates:
        return None, ""
    judged = {name: rate for name, rate in rates.items() if not name.startswith("several")}
    name = max(judged, key=lambda key: abs(judged[key]["difference"]))
    rate = judged[name]
    note = f"{name}: {rate['dream']:.3f}, real {rate['real']:.3f}, standard error {rate['standard_error']:.3f}"
    return abs(rate["difference"]), note
