"""Objects, drift and bars: a perfect dream passes, a faulty one does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worldsim.errors import WorldsimError
from worldsim.evaluation import drift, objects
from worldsim.evaluation.bars import Bar, bars
from worldsim.evaluation.moments import clones
from worldsim.evaluation.report import SECTIONS, as_json, bar_table
from worldsim.evaluation.roll_outs import DreamRows, RealRows, dream
from worldsim.evaluation.subject import Subject, spread
from worldsim.vision.colours import ColourReader


def test_a_dream_equal_to_the_recording_is_perfect(subject: Subject) -> None:
    assert subject.reader
    frames = np.stack([moment.frames for moment in subject.moments(4, 60)], 1)
    real = subject.reader.read(frames)
    for name in subject.reader.objects:
        found = objects.compare(subject, real[name], real[name])
        assert found["present"] == found["single"] == 1
        assert found["missing"] == found["several"] == found["wrong_size"] == 0
        assert found["usual"] == pytest.approx(real[name].single.mean())
        assert found["errors"]["1"]["median"] == 0 and found["errors"]["1"]["in_step"] == 1


def test_a_dream_without_its_ball_fails_however_good_the_rest(subject: Subject) -> None:
    assert isinstance(subject.reader, ColourReader)
    frames = np.stack([moment.frames for moment in subject.moments(4, 60)], 1)
    real = subject.reader.read(frames)
    ball = subject.reader.coverage(frames.reshape(-1, *frames.shape[2:]))[0].reshape(frames.shape[:4]) > 0.03
    without = np.where(ball[..., None], np.array([144, 72, 17]), frames).astype(np.uint8)
    found = objects.compare(subject, subject.reader.read(without)["ball"], real["ball"])
    assert found["single"] < 0.1 and found["missing"] > 0.9
    assert np.isinf(found["errors"]["1"]["median"]) and found["errors"]["1"]["in_step"] == 0
    other = real["player"][:, ::-1]  # where other games' players are
    shares = objects.compare(subject, other, real["player"])["errors"]["1"]
    near = np.hypot(other.x - real["player"].x, other.y - real["player"].y)[subject.ticks(1) - 1] <= 1.5
    assert shares["in_step"] == pytest.approx(near[real["player"].present[subject.ticks(1) - 1]].mean())


def test_an_untrained_world_shows_no_objects(subject: Subject) -> None:
    report = objects.measure(subject)
    assert report["roll_outs"] == 3
    assert report["by_object"]["player"]["present"] < 0.5
    assert len(report["by_object"]["ball"]["curve"]) == 30


def test_the_same_seed_dreams_the_same(subject: Subject) -> None:
    moments = subject.moments(3, 5)
    actions = np.stack([moment.actions for moment in moments], 1)
    starts = [moment.start for moment in moments]
    first, again = (dream(subject.world, starts, actions, subject.settings) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_sessions_side_by_side_dream_what_one_after_the_other_does(subject: Subject) -> None:
    moments = subject.moments(7, 5)
    actions = np.stack([moment.actions for moment in moments], 1)
    starts = [moment.start for moment in moments]
    alone, beside = (replace(subject.settings, workers=workers) for workers in (1, 3))
    np.testing.assert_array_equal(*(dream(subject.world, starts, actions, s) for s in (alone, beside)))
    one, other = (DreamRows(subject.world, starts, settings) for settings in (alone, beside))
    for tick in range(5):
        np.testing.assert_array_equal(one.step(actions[tick]), other.step(actions[tick]))
        np.testing.assert_array_equal(one.frames, other.frames)


def test_drift_compares_the_dream_with_the_real_game_under_every_policy(subject: Subject) -> None:
    report, pictures = drift.measure(subject)
    assert list(report["policies"]) == ["random", "scripted", "idle", "held UP", "held DOWN"]
    for found in report["policies"].values():
        assert len(found["along"]) == 2
        assert found["last"]["player present"]["real"] == 1
        assert found["last"]["player present"]["dream"] < 1
    assert pictures["idle"].shape == (2, 80, 80, 3)
    assert set(report["points"]) == {"dream", "real"}


def test_the_real_game_does_not_drift_from_itself(subject: Subject) -> None:
    moments = subject.moments(2, 1)
    with subject.game() as game:
        states = clones(game, moments)
    runs = []
    for _ in range(2):
        rows = RealRows(subject.source, states, 0)
        makers = drift.policies(subject)
        players = [makers["random"](np.random.default_rng(row)) for row in range(2)]
        runs.append(drift.play(subject, rows, players, 45, lambda _: None))
        rows.close()
    found = drift.compare(subject, *runs)
    assert all(rate["difference"] == 0 for rate in found["whole"].values())
    assert max(at["frechet"] for at in found["along"]) < 1e-3


def test_long_dreams_are_held_against_how_they_began(subject: Subject) -> None:
    subject.extent = replace(
        subject.extent, drift_minutes=2 / 60, drift_early=0.5, drift_policies=("idle",), drift_window=0.25
    )
    report, _ = drift.measure(subject)
    assert list(report["policies"]) == ["idle"]
    found = report["policies"]["idle"]
    assert set(found["early"]) == set(found["last"]) and report["early_from"] == 0.5
    balls = found["sharp"]["early"]["real"]
    assert 0 < balls["sharp"] <= balls["frames"] <= 2 * 15, "two rows of half a second"
    assert report["frechet_held"]["early"] == pytest.approx(
        np.mean([at["dream_to_real"] for at in report["frechet"] if 0.5 <= at["from"] < 1.0])
    )
    assert report["frechet_held"]["last"] != report["frechet_held"]["early"]
    assert "after 0.5 s" in " ".join(bar.text for bar in bars({"drift": report}))
    page = "\n".join(SECTIONS["drift"](report))
    at = found["early"]["player present"]["dream"], found["last"]["player present"]["dream"]
    assert f"| idle | player present | {at[0]:.3f} | {at[1]:.3f} | 1.000 | 1.000 |" in page
    assert "| one sharp ball, where there is one | dream, after 0.5 s | dream, end |" in page
    subject.extent = replace(subject.extent, drift_policies=("idol",))
    with pytest.raises(WorldsimError, match=r"unknown policy 'idol' \(did you mean 'idle'\?\): there is random,"):
        drift.measure(subject)


def test_quantiles_count_missing_objects_as_farthest_and_leave_out_what_is_unknown() -> None:
    nan, inf = float("nan"), float("inf")
    assert spread(np.array([1.0, 2.0, nan, 3.0, inf]), (0.0, 0.5, 0.9)) == [1.0, 3.0, inf]
    assert np.isnan(spread(np.array([nan]))).all()


def report(**changes: Any) -> dict[str, Any]:
    rates = {"ball present": {"dream": 0.9, "real": 0.91, "difference": -0.01, "standard_error": 0.01}}
    exact = {"precision": 0.95, "recall": 0.92, "said": 20, "true": 20, "matched": 19}
    ball = {
        "single": 0.98, "missing": 0.0, "several": 0.01, "wrong_size": 0.01,
        "errors": {h: {"median": m, "roll_outs": 50} for h, m in (("1", 0.5), ("2", 2.0))},
    }  # fmt: skip
    whole: dict[str, Any] = {
        "control": {
            "inverse_dynamics": {
                "ratio": 0.97,
                "dream": {"overall": 0.9},
                "real": {"overall": 0.93},
                "classes": {"A": 0.5},
            },  # fmt: skip
            "player": {
                "error": {"1": {"median": 0.2}},
                "by_action": {"NOOP": {"1": {"median": 0.2}}},
                "roll_outs": 90,
            },
        },
        "objects": {
            "by_object": {"ball": ball, "player": {"errors": {"1": {"median": 0.3, "roll_outs": 50}}}},
            "steady": {"all_present": 1.0, "objects": ["player"]},
        },
        "drift": {"policies": {"idle": {"last": rates}}},
        "outcome": {sign: {"exact": exact, "within_1": exact} for sign in ("+1", "-1")},
    }
    return whole | changes


def test_all_bars_pass_for_a_good_world() -> None:
    assert all(bar.passed for bar in bars(report()))
    assert len(bars(report())) == 12


def test_what_a_game_out_of_step_would_score_stands_beside_what_the_dream_does() -> None:
    told = report()
    assert "out of step" not in str(bars(told)), "reports of before do not know"
    told["objects"]["by_object"]["ball"]["usual"], told["objects"]["steady"]["usual"] = 0.8, 0.95
    ball, others = (bar for bar in bars(told) if "ball of the real size" in bar.text or "there, over" in bar.text)
    assert ball.note == "none 0.000, several 0.010, wrong size 0.010; 0.800 of a real game out of step"
    assert others.note == "0.950 of a real game out of step"


def test_how_many_dreams_are_still_in_step_stands_beside_their_median() -> None:
    told = report()
    told["objects"]["by_object"]["ball"]["errors"]["1"]["in_step"] = 0.75
    after = [bar.note for bar in bars(told) if bar.text.startswith("ball off")]
    assert after == ["50 roll-outs; within 1.5 px in 0.750", "50 roll-outs"], "reports of before do not know"


@pytest.mark.parametrize("figure", [float("inf"), 1.2])
def test_a_ball_that_is_off_or_missing_fails_its_bar(figure: float) -> None:
    bad = report()
    bad["objects"]["by_object"]["ball"]["errors"]["1"]["median"] = figure
    assert [bar.text for bar in bars(bad) if bar.passed is False] == ["ball off after 1 s, median px"]


def test_the_worst_rate_of_a_policy_decides_and_several_balls_only_inform() -> None:
    bad = report()
    rates = bad["drift"]["policies"]["idle"]["last"]
    rates["several balls"] = {"dream": 0.5, "real": 0.0, "difference": 0.5, "standard_error": 0.0}
    assert all(bar.passed for bar in bars(bad))
    rates["one ball"] = {"dream": 0.8, "real": 0.9, "difference": -0.1, "standard_error": 0.01}
    [failed] = [bar for bar in bars(bad) if bar.passed is False]
    assert failed.value == pytest.approx(0.1) and failed.note.startswith("one ball")


def test_dreams_that_end_worse_than_they_began_fail() -> None:
    steady = {"ball present": {"dream": 0.9, "real": 0.91}, "several balls": {"dream": 0.1, "real": 0.0}}
    ball = {"dream": {"frames": 900, "sharp": 890}, "real": {"frames": 910, "sharp": 909}}
    told = report()
    told["drift"] |= {"early_from": 10.0, "minutes": 10.0, "frechet_held": {"early": 2.0, "last": 2.02}}
    found = told["drift"]["policies"]["idle"] | {"early": steady, "sharp": {"early": ball, "last": ball}}
    found["last"] = found["last"] | {"several balls": {"dream": 0.9, "real": 0.0, "difference": 0.9}}
    told["drift"]["policies"]["idle"] = found
    held = [bar for bar in bars(told) if "after 10 s" in bar.text or "sharp" in bar.text]
    assert len(held) == 4 and all(bar.passed for bar in bars(told)), "several balls only inform"
    assert held[0].note == "ball present: 0.900, then 0.900; real 0.910, 0.910"
    assert held[2].note == "of 900 frames that show a ball; 0.999 in the real game"
    told["drift"]["frechet_held"]["last"] = 2.2
    found["early"] = {"ball present": {"dream": 0.96, "real": 0.91}}
    found["sharp"] = {"early": ball, "last": ball | {"dream": {"frames": 900, "sharp": 850}}}
    failed = [bar.text for bar in bars(told) if bar.passed is False]
    assert failed == [
        "idle: rates at the end off from those after 10 s",
        "Frechet distance at the end / after 10 s",
        "one sharp ball (+-25 %) at the end, where there is one",
    ]


def test_parts_that_were_left_out_are_not_measured_rather_than_failed() -> None:
    rows = bars({})
    assert {bar.passed for bar in rows} == {None}
    assert all("not measured" in line for line in bar_table(rows)[2:])


def test_the_bar_table_says_what_failed() -> None:
    table = bar_table([Bar("objects", "ball", float("inf"), 1.0, False)])
    assert table[-1] == "| objects | ball | <= 1 | missing | **FAIL** |  |"


def test_json_is_strict() -> None:
    text = as_json({"a": float("nan"), "b": [float("inf"), np.float32(1.5)], "c": np.int64(3)})
    assert json.loads(text) == {"a": None, "b": ["missing", 1.5], "c": 3}
