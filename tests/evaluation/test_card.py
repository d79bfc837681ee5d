"""Figures go from reports into Markdown without a hand in between, and again when they are measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worldsim.evaluation.card import BEGIN, END, LATENCY, main


def evaluation(value: float | str | None) -> dict[str, Any]:
    bar = {"part": "objects", "text": "ball off", "target": 1.0, "at_least": False, "note": "9 roll-outs"}
    box = {"cpu": "a CPU", "torch_threads": 2, "torch": "2.13"}
    about = {"command": "worldsim evaluate", "fingerprint": "f" * 64, "steps": 2, "dtype": "bfloat16", "seed": 0}
    return {"about": about | {"commit": "c" * 40, "quick": False, "machine": box}, "bars": [bar | {"value": value}]}


def run(folder: Path, value: float | str | None, *more: str) -> int:
    (folder / "report.json").write_text(json.dumps(evaluation(value)))
    return main([f"files=[{folder / 'README.md'}]", f"evaluation={folder / 'report.json'}", *more])


def test_figures_are_put_at_the_end_and_later_replaced_in_place(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\ntext\n")
    assert run(tmp_path, 0.5) == 0
    readme.write_text(readme.read_text() + "\n## After\n")
    assert run(tmp_path, 2.5) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n\ntext\n") and text.endswith("## After\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "2.5" in text and "0.500" not in text and "**FAIL**" in text


@pytest.mark.parametrize(("value", "word"), [(0.5, "pass"), ("missing", "**FAIL**"), (None, "not measured")])
def test_a_verdict_follows_from_its_figure(tmp_path: Path, value: float | str | None, word: str) -> None:
    (tmp_path / "README.md").write_text("")
    assert run(tmp_path, value) == 0
    assert word in (tmp_path / "README.md").read_text()


def test_a_file_that_is_no_report_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("kept")
    (tmp_path / "latency.json").write_text('{"foreign": 1}')
    assert run(tmp_path, 1.0, f"latency=[{tmp_path / 'latency.json'}]") == 2
    assert "latency.json is not a report of that kind" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "kept"


def test_a_latency_stays_when_weights_are_judged_anew(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("")
    row = {"p50": 5.25, "p95": 6.5, "p99": 7.0, "max": 8.0}
    report: dict[str, Any] = {"ticks": 1800, "fps": None, "decisions_per_second": 123.4, "late_ticks": 0}
    report |= {"late_ticks_stolen": 0, "steps": 2, "dtype": "bfloat16", "backend": "aoti", "excluded": "the panel"}
    report["milliseconds"] = dict.fromkeys(("response", "decode", "encode", "tick"), row)
    report["machine"] = {"cpu": "a CPU", "cores": 2, "torch_threads": 2, "torch": "2.13", "video_driver": "dummy"}
    (tmp_path / "latency.json").write_text(json.dumps(report))
    assert run(tmp_path, 0.5, f"latency=[{tmp_path / 'latency.json'}]") == 0
    before = readme.read_text()
    assert "1800 ticks unpaced: 123.4 decisions/s" in before and before.count(LATENCY) == before.count(BEGIN) == 1
    assert run(tmp_path, 0.75) == 0
    assert readme.read_text() == before.replace("| 0.500 |", "| 0.750 |")
    (tmp_path / "latency.json").write_text(json.dumps(report | {"decisions_per_second": 99.9}))
    assert main([f"files=[{readme}]", f"latency=[{tmp_path / 'latency.json'}]"]) == 0
    assert readme.read_text() == before.replace("| 0.500 |", "| 0.750 |").replace("123.4", "99.9")


def test_a_lone_marker_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text(f"text\n{BEGIN}\n")
    assert run(tmp_path, 1.0) == 2
    assert "one marker" in capsys.readouterr().err


def test_what_a_policy_scored_is_a_row_for_each_place(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    told = {"episodes": 30, "mean": -9.5, "median": -10.0, "mean_interval_95": [-11.0, -8.25]}
    report: dict[str, Any] = {"policy": "/some/where/policy.safetensors", "greedy": False, "commit": "c" * 40 + "+"}
    report |= {"offline_steps": 8, "steps": 77, "real": told}
    (tmp_path / "policy.json").write_text(json.dumps(report))
    assert run(tmp_path, 1.0, f"policies=[{tmp_path / 'policy.json'}]") == 0
    text = (tmp_path / "README.md").read_text()
    assert "| policy.safetensors (offline steps 8, steps 77) | drawn | real | 30 | -9.50 | -11.00 to -8.25 |" in text
    assert "| -10.0 | cccccccccccc+ |" in text and "/some" not in text and BEGIN in text
    again = main([f"files=[{tmp_path / 'README.md'}]", f"policies=[{tmp_path / 'policy.json'}]"])
    assert again == 0 and (tmp_path / "README.md").read_text() == text, "what else was measured stays"
