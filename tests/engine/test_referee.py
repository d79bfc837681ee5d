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
    referee = Referee(len(since), None, torch.device("cpu"), reward_ages=12)
    referee.begin(range(len(since)), since)
    return referee


def test_a_count_that_knows_of_no_reward_is_mended_where_the_frames_go_on_telling_of_one() -> None:
    """On the mean of a quarter of the ages; a third of them ago is when it was."""
    won, lost = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([9.0, 0.0, 0.0])
    counts = [0, 20, -12, -11, 3]  # never, long ago (the last tick that is told of has just passed), and recently
    for recent, sign in ((won, 1), (lost, -1)):
        referee = begun(counts)
        told = [judged(referee, NOTHING, recent) for _ in range(4)]
        # 1 - (2 / 3)^n is above three quarters at n = 4; the fourth count is unknown a tick later than the third.
        assert told[0] == [0, 21, -13, -12, 4] and told[2] == [0, 23, -15, -14, 6]
        assert told[3] == [4 * sign] * 3 + [-15, 7]
        assert judged(referee, NOTHING, recent) == [5 * sign] * 3 + [4 * sign, 8]
    assert judged(begun(counts), NOTHING, NOTHING) == judged(begun(counts), NOTHING) == [0, 21, -13, -12, 4]


def test_it_takes_more_than_a_guess_and_more_than_some_ticks() -> None:
    nearly, enough = (torch.tensor([0.0, 1 - p, p]).clamp(min=1e-9).log() for p in (SURE - 0.01, SURE + 0.01))
    certain, none = torch.tensor([0.0, 0.0, 99.0]), torch.tensor([0.0, 99.0, 0.0])

    def mended(*ticks: Tensor) -> bool:
        referee = begun([0])
        return any(judged(referee, NOTHING, tick) != [0] for tick in ticks)

    assert mended(*[enough] * 99) and not mended(*[nearly] * 99)
    assert mended(*[certain] * 4) and not mended(*[certain, none] * 9)


def test_a_mended_count_goes_on_and_is_no_point() -> None:
    referee, won = begun([0]), torch.tensor([0.0, 0.0, 9.0])
    told = [judged(referee, NOTHING, won)[0] for _ in range(17)]
    assert told == [0, 0, 0, *range(4, 16), 4, 5], "what it has mended it knows of, for as long as it would be told"
    assert referee.score.tolist() == [[0, 0]] and referee.told.tolist() == [1]
    assert judged(referee, torch.tensor([9.0, 0.0, 0.0]), won) == [-1] and referee.score.tolist() == [[0, 1]]
    assert judged(referee, NOTHING, won) == [-2], "one that it knows of is not mended"


def test_a_row_that_begins_anew_has_heard_nothing() -> None:
    referee, won = begun([0, 0]), torch.tensor([0.0, 0.0, 9.0])
    for _ in range(3):
        judged(referee, NOTHING, won)
    referee.begin([0], [0])
    assert judged(referee, NOTHING, won) == [0, 4]
