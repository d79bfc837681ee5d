"""Returns in the dream beside those in the real game."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from worldsim.agents.ppo import Learner, PPOConfig
from worldsim.data.episodes import Dataset
from worldsim.evaluation.transfer import interval, main, ranks, spearman


def test_ranks_and_their_correlation() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert spearman([1, 2, 3, 10], [-5, 0, 0.1, 2]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
    x, y = (np.array([sum(v < u for v in side) + (sum(v == u for v in side) - 1) / 2 for u in side]) for side in (a, b))
    assert spearman(a.tolist(), b.tolist()) == pytest.approx(float(np.corrcoef(x, y)[0, 1]))


def test_it_writes_a_table_and_a_picture(
    tiny_world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ale_py")
    run = tmp_path / "run"
    told = {"world": str(tiny_world_folder), "envs": 2, "rollout": 6, "minibatches": 2, "epochs": 1}
    Learner(PPOConfig(**told, run=run, total_steps=24, keep=2)).train()  # type: ignore[arg-type]
    kept = [file.name for file in sorted((run / "policies").iterdir())]
    assert kept == ["step_0000000012.safetensors", "step_0000000024.safetensors"]
    where = [f"world={tiny_world_folder}", "source=pong", f"out={tmp_path / 'out'}"]
    names = f"policies=[random,'scripted:expert',{run}/policies]"
    assert main([*where, names, "episodes=2", "max_steps=70"]) == 0
    report = json.loads((tmp_path / "out" / "transfer.json").read_text())
    players = ["random", "scripted:expert", "policies/step_0000000012", "policies/step_0000000024"]
    assert list(report["players"]) == players
    assert all(len(report["players"][name]["real"]["returns"]) == 2 for name in players)
    text = (tmp_path / "out" / "transfer.md").read_text()
    assert "policies/step_0000000024" in text and "cut off after 70 decisions" in text
    assert cv2.imread(str(tmp_path / "out" / "transfer.png")).std() > 1
    assert "over 4 players" in capsys.readouterr().out


def test_the_correlation_is_as_sure_as_the_returns_are() -> None:
    def players(spread: float) -> dict[str, dict[str, dict[str, list[float]]]]:
        rng = np.random.default_rng(0)
        return {
            str(skill): {
                place: {"returns": (skill + spread * rng.standard_normal(30)).tolist()} for place in ("dream", "real")
            }
            for skill in range(5)
        }

    assert interval(players(0.01), 0) == pytest.approx([1.0, 1.0])
    low, high = interval(players(5.0), 0)
    assert low < 0.6 and high > low
    alike = {"returns": [0.0, 0.0]}
    assert all(math.isnan(one) for one in interval({name: {"dream": alike, "real": alike} for name in "ab"}, 0))


def test_dreams_may_be_short_and_begin_in_recorded_play(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("ale_py")
    run = tmp_path / "run"
    told = {"world": str(tiny_world_folder), "envs": 2, "rollout": 6, "minibatches": 2, "epochs": 1}
    Learner(PPOConfig(**told, run=run, total_steps=12, keep=1, obs_type="gray")).train()  # type: ignore[arg-type]
    where = [f"world={tiny_world_folder}", "source=pong", f"out={tmp_path / 'out'}", f"data={pong_data.folder}"]
    names = f"policies=[random,'scripted:expert',{run}/policies]"
    short = ["starts=recorded", "dreams=5", "dream_seconds=0.4", "max_steps=20"]
    assert main([*where, names, "episodes=2", *short]) == 0
    report = json.loads((tmp_path / "out" / "transfer.json").read_text())
    for row in report["players"].values():
        assert len(row["dream"]["returns"]) == 5 and len(row["real"]["returns"]) == 2
    text = (tmp_path / "out" / "transfer.md").read_text()
    assert "in the dream of 5 times 0.4 seconds from moments of recorded play" in text
    assert cv2.imread(str(tmp_path / "out" / "transfer.png")).std() > 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("starts=anywhere", "starts is episode or recorded"),
        ("dreams=0", "dreams must be at least 1"),
        ("dream_seconds=0", "dream_seconds positive"),
    ],
)
def test_dreams_that_cannot_be_are_told(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("[random]", "give 3 or more"),
        ("[random,idle,nobody.safetensors]", "not a whole policy"),
        ("[.]", "no policies in"),
    ],
)
def test_players_that_are_not_there_are_told(
    given: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"policies={given}"]) == 2
    assert word in capsys.readouterr().err
