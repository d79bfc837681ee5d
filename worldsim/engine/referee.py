"""Who has scored, and when it is over: what the outcome heads say of each tick, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.model.cue import tick_later

SURE = 0.85  # that a reward is recent, before a count that knows of none is begun anew
# Ticks in a row of being sure. A ball that flies where served ones do, or a count that has just run out, fools a head
# for one tick, and a count begun anew then makes a ball vanish that is there; where none is, heads are seldom sure for
# long (docs/experiments/2026-11-30-thirty-sixth-erased.md).
PATIENCE = 2


class Outcome(NamedTuple):
    """What followed from an action, read from the frame it led to."""

    reward: NDArray[np.float32]  #: [B], -1, 0 or +1
    terminated: NDArray[np.bool_]  #: [B]


class Lives:
    """Lives of every row, counted down where one is lost.

    A loss that is told in ticks running is one. A life lasts for a while, as no recording shows it lost sooner (a ball
    has to be served and to fall): what is told before that is not believed, a second time least of all. Of the life in
    which a row begins nobody knows how long it has lasted.

    Args:
        batch: Rows.
        lives: Of an episode.
        shortest: Ticks between two losses at least; None: nobody knows.

    Attributes:
        state: int64 [B, 3], lives left, whether the last tick told of a loss, and ticks since the last that counted.
    """

    def __init__(self, batch: int, lives: int, shortest: int | None = None) -> None:
        self._lives, self._shortest = lives, shortest or 1
        self.state = np.zeros((batch, 3), np.int64)
        self.begin(range(batch))

    def begin(self, rows: Sequence[int]) -> None:
        """Rows start over."""
        self.state[list(rows)] = self._lives, 0, self._shortest

    def lose(self, told: NDArray[np.bool_], playing: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Count lives down; arguments are bool [B].

        Args:
            told: Where a loss is told.
            playing: Rows that took part in the tick.

        Returns:
            Where one counts, bool [B].
        """
        left, losing, since = self.state.T
        since += playing
        counts = told & playing & (losing == 0) & (left > 0) & (since >= self._shortest)
        left -= counts
        since[counts] = 0
        losing[playing] = told[playing]
        return counts


class Referee:
    """Keeps the score of every row.

    A dream can lose what the game is about without a reward (a ball that fades), which no recorded game does. Then
    nothing more is due, and the dream would wait for ever. In a world with ``model.recency`` a head tells from the
    frames whether a reward must have been given lately; where it is sure for ``PATIENCE`` ticks, and none was for
    longer than the decoder is told of, the count begins as if one had been when it began to be sure. The score stays
    as it is.

    Args:
        batch: Rows.
        score_limit: Points of a side at which, and at nothing else, an episode ends: a picture need not show the score,
            and then a head can only guess. ``None``: the heads say when it does.
        device: Where the heads run.
        reward_ages: Ticks for which the decoder is told of a reward.
        lives: Of an episode, in a game that has some: the end head then tells where one is lost, and the episode ends
            with the last. ``None`` in a game without.
        shortest_life: See :class:`Lives`.

    Attributes:
        score: int64 [B, 2], points rewarded with +1 and with -1 since the row began.
        tick: int64 [B], judged ticks since the row began.
        lives: See :class:`Lives`; of a game without, nobody asks.
        told: int64 [B], sign of the last reward + 1, on the device: the heads hear it.
        since: int64 [B], the last reward that was given, its sign times its age, see
            :func:`~worldsim.model.cue.since_rewards`, on the device: the decoder hears it.
        doubt: int64 [B], ticks in a row in which the head was sure of a reward that the count does not know, on the
            device.
    """

    def __init__(
        self,
        batch: int,
        score_limit: int | None,
        device: torch.device,
        reward_ages: int = 0,
        lives: int | None = None,
        shortest_life: int | None = None,
    ) -> None:
        self._limit, self._ages, self._has_lives = score_limit, reward_ages, lives is not None
        self.score = np.zeros((batch, 2), np.int64)
        self.tick = np.zeros(batch, np.int64)
        self.lives = Lives(batch, lives or 0, shortest_life)
        self.told = torch.ones(batch, dtype=torch.int64, device=device)
        self.since = torch.zeros_like(self.told)
        self.doubt = torch.zeros_like(self.told)

    def begin(self, rows: Sequence[int], since: Sequence[int]) -> None:
        """Rows start over, each a given time after its last reward."""
        self.score[rows], self.tick[rows], self.told[rows] = 0, 0, 1
        self.lives.begin(rows)
        self.doubt[rows] = 0
        self.since[rows] = torch.tensor(since, device=self.since.device)

    def judge(self, logits: Sequence[Tensor], idle: Sequence[int]) -> Outcome:
        """The outcome of a tick.

        Args:
            logits: Of the reward's signs -1, 0 and +1 [B, 3]; of going on and of the end [B, 2], not asked where there
                is a score limit; and perhaps of the last reward's sign, 0 if it is not recent [B, 3].
            idle: Rows that took no part in it.
        """
        reward_logits, end_logits, *recent = logits
        torch.argmax(reward_logits, -1, out=self.told)
        waiting = list(idle)  # an empty tuple would mean all of them
        self.told[waiting] = 1
        self.since.copy_(tick_later(self.since, self.told - 1))
        for one in recent:
            self._correct(one)
        playing = np.ones(len(self.tick), bool)
        playing[waiting] = False
        sign = self.told.cpu().numpy() - 1
        self.tick += playing
        self.score[:, 0] += sign > 0
        self.score[:, 1] += sign < 0
        if self._limit is not None:
            terminated = self.score.max(1) >= self._limit
        else:
            terminated = end_logits.cpu().numpy().argmax(-1) == 1
            if self._has_lives:
                self.lives.lose(terminated, playing)
                terminated = self.lives.state[:, 0] == 0
        return Outcome(sign.astype(np.float32), terminated & playing)

    def _correct(self, recent: Tensor) -> None:
        """Begin the count anew where it knows of no reward that is recent, and the frames have for some ticks."""
        lost, none, won = recent.softmax(-1).unbind(-1)
        unknown = (self.since == 0) | (self.since.abs() > self._ages)
        self.doubt.copy_(torch.where(unknown & (none < 1 - SURE), self.doubt + 1, 0))
        age = min(PATIENCE, self._ages)
        anew = torch.where(won > lost, age, -age)
        self.since.copy_(torch.where(self.doubt >= PATIENCE, anew, self.since))
