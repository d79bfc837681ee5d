"""Who keeps the score, and what tells the decoder that a reward was given."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.engine.referee import SURE, Referee

NOTHING = torch.tensor([0.0, 9.0, 0.0])


def judged(referee: Referee, reward: Tensor, recent: Tensor | None = None) -> list[int]:
    """What the decoder is told after a tick of which every row's heads say the same."""
    rows = len(referee.since)
    logits = [one.expand(rows, -1) for one in (reward, torch.zeros(2), *(() if recent is None else (recent,)))]
    referee.judge(logits, ())
    told: list[int] = referee.since.tolist()
    return told


def begun(since: list[int]) -> Referee:
    referee = Referee(len(since), None, torch.device("cpu"), reward_ages=4)
    referee.begin(range(len(since)), since)
    return referee


def test_a_count_that_knows_of_no_reward_begins_anew_where_the_frames_are_sure_of_one() -> None:
    won, lost = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([9.0, 0.0, 0.0])
    counts = [0, 9, -4, -3, 3]  # never, long ago (the last tick that is told of has just passed), and recently
    assert judged(begun(counts), NOTHING, won) == [1, 1, 1, -4, 4]
    assert judged(begun(counts), NOTHING, lost) == [-1, -1, -1, -4, 4]
    assert judged(begun(counts), NOTHING, NOTHING) == judged(begun(counts), NOTHING) == [0, 10, -5, -4, 4]


def test_it_takes_more_than_a_guess() -> None:
    nearly, enough = (torch.tensor([0.0, 1 - p, p]).clamp(min=1e-9).log() for p in (SURE - 0.01, SURE + 0.01))
    assert judged(begun([0]), NOTHING, nearly) == [0] and judged(begun([0]), NOTHING, enough) == [1]


def test_a_corrected_count_goes_on_and_is_no_point() -> None:
    referee, won = begun([0]), torch.tensor([0.0, 0.0, 9.0])
    assert [judged(referee, NOTHING, won) for _ in range(6)] == [[1], [2], [3], [4], [1], [2]]
    assert referee.score.tolist() == [[0, 0]] and referee.told.tolist() == [1]
    assert judged(referee, torch.tensor([9.0, 0.0, 0.0]), won) == [-1] and referee.score.tolist() == [[0, 1]]
