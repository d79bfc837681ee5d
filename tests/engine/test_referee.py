"""Who keeps the score, and what tells the decoder that a reward was given."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.engine.referee import PATIENCE, SURE, Lives, Referee

AGES = 12
NOTHING = torch.tensor([0.0, 9.0, 0.0])


def judged(referee: Referee, reward: Tensor, recent: Tensor | None = None) -> list[int]:
    """What the decoder is told after a tick of which every row's heads say the same."""
    rows = len(referee.since)
    logits = [one.expand(rows, -1) for one in (reward, torch.zeros(2), *(() if recent is None else (recent,)))]
    referee.judge(logits, ())
    told: list[int] = referee.since.tolist()
    return told


def begun(since: list[int]) -> Referee:
    referee = Referee(len(since), None, torch.device("cpu"), reward_ages=AGES)
    referee.begin(range(len(since)), since)
    return referee


def test_a_count_that_knows_of_no_reward_begins_anew_where_the_frames_are_sure_of_one_for_long_enough() -> None:
    won, lost = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([9.0, 0.0, 0.0])
    counts = [0, 20, -12, -3, 3]  # never, long ago (the last tick that is told of has just passed), and recently
    for sign, sure in ((1, won), (-1, lost)):
        referee = begun(counts)
        for tick in range(1, PATIENCE):
            assert judged(referee, NOTHING, sure) == [0, 20 + tick, -12 - tick, -3 - tick, 3 + tick]
        assert judged(referee, NOTHING, sure) == [sign * PATIENCE] * 3 + [-3 - PATIENCE, 3 + PATIENCE]
    assert judged(begun(counts), NOTHING, NOTHING) == judged(begun(counts), NOTHING) == [0, 21, -13, -4, 4]


def test_it_takes_more_than_a_guess() -> None:
    nearly, enough = (torch.tensor([0.0, 1 - p, p]).clamp(min=1e-9).log() for p in (SURE - 0.01, SURE + 0.01))
    for told, since in ((nearly, 0), (enough, PATIENCE)):
        referee = begun([0])
        assert [judged(referee, NOTHING, told) for _ in range(PATIENCE)][-1] == [since]


def test_being_fooled_for_some_ticks_does_not_add_up() -> None:
    referee, won = begun([0]), torch.tensor([0.0, 0.0, 9.0])
    for _ in range(4):
        for _ in range(PATIENCE - 1):
            assert judged(referee, NOTHING, won) == [0]
        assert judged(referee, NOTHING, NOTHING) == [0]
    for _ in range(PATIENCE - 1):
        judged(referee, NOTHING, won)
    referee.begin([0], [0])
    assert judged(referee, NOTHING, won) == [0], "nor over the beginning of another episode"


def test_a_corrected_count_goes_on_and_is_no_point() -> None:
    referee, won = begun([0]), torch.tensor([0.0, 0.0, 9.0])
    counted = [judged(referee, NOTHING, won)[0] for _ in range(2 * PATIENCE + AGES)]
    again = [*range(PATIENCE, AGES + PATIENCE)]
    assert counted == ([0] * (PATIENCE - 1) + again + again)[: len(counted)]
    assert referee.score.tolist() == [[0, 0]] and referee.told.tolist() == [1]
    assert judged(referee, torch.tensor([9.0, 0.0, 0.0]), won) == [-1] and referee.score.tolist() == [[0, 1]]


def test_where_fewer_ticks_are_told_of_the_count_begins_at_the_oldest() -> None:
    ages = PATIENCE - 1
    referee = Referee(1, None, torch.device("cpu"), reward_ages=ages)
    told = [judged(referee, NOTHING, torch.tensor([9.0, 0.0, 0.0]))[0] for _ in range(PATIENCE + 1)]
    assert told[PATIENCE - 1] == -ages


def test_no_life_is_lost_sooner_than_any_that_was_recorded() -> None:
    lives = Lives(2, 5, shortest=4)
    told = np.array([(1, 0), (1, 0), (0, 0), (1, 1), (1, 1), (0, 0), (1, 1), (0, 1), (0, 1), (1, 0)], bool)
    counted = np.array([lives.lose(now, np.array([True, at != 5])) for at, now in enumerate(told)])
    assert np.flatnonzero(counted[:, 0]).tolist() == [0, 6], "of the first nobody knows how long it had lasted"
    assert np.flatnonzero(counted[:, 1]).tolist() == [3], "a loss that is told in ticks running is one"
    assert lives.state[:, 0].tolist() == [3, 4]
    lives.begin([1])
    assert lives.lose(np.ones(2, bool), np.ones(2, bool)).tolist() == [False, True]


def test_without_a_shortest_life_every_loss_counts_that_is_not_told_in_ticks_running() -> None:
    lives, playing = Lives(1, 3), np.ones(1, bool)
    told = (1, 1, 0, 1, 0, 1, 0, 1)
    counted = [bool(lives.lose(np.array([one], bool), playing)[0]) for one in told]
    assert np.flatnonzero(counted).tolist() == [0, 3, 5], "no more than there are"
