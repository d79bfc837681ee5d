"""How many threads a tick gets: fewer where other programs want the cores too."""

from __future__ import annotations

from statistics import median

WINDOW = 15  # ticks that are looked at together: half a second
REST = 120  # windows until what did not help is tried again, and until more threads are after fewer did: a minute
LONGEST = 8 * REST  # windows: a trial of more threads that fails doubles the time until the next, up to this
STALLED = 2.0  # times the median before: one such tick ends a trial of more threads


class Threads:
    """Tries half of the threads when ticks take longer than they may, and keeps the number that was faster.

    A tick is hundreds of small products, and each waits for its last thread. Where that has no core of its own, all
    wait: beside a training on two cores a game made 3 ticks a second with two threads and 29 with one. Other programs
    end, so that more threads are tried again later: a tick that stalls is the price, where they have not.

    Args:
        count: to begin with.
        period_ms: that a tick may take, in milliseconds.

    Attributes:
        count, most: that are to be used now, and at the beginning.
    """

    def __init__(self, count: int, period_ms: float) -> None:
        self.count = self.most = count
        self._period = period_ms
        self._ticks: list[float] = []
        self._before: tuple[int, float] | None = None  # during a trial: how many there were, and their median
        self._fewer_in = self._more_in = 0  # windows until a trial of fewer or of more threads may begin
        self._patience = REST

    def feed(self, busy_ms: float) -> bool:
        """Told how long a tick took, without its slack; True if :attr:`count` changed, or is to stay after a trial."""
        self._ticks.append(busy_ms)
        if self._before is not None:
            return self._tried(busy_ms, *self._before)
        if len(self._ticks) < WINDOW:
            return False
        now = median(self._ticks)
        self._ticks.clear()
        self._fewer_in, self._more_in = max(0, self._fewer_in - 1), max(0, self._more_in - 1)
        if now > self._period and self.count > 1:
            wanted, wait = self.count // 2, self._fewer_in
        else:
            wanted, wait = min(2 * self.count, self.most), self._more_in
        if wanted == self.count or wait:
            return False
        self._before, self.count = (self.count, now), wanted
        return True

    def _tried(self, busy_ms: float, count: int, then: float) -> bool:
        """As :meth:`feed`, during a trial, after ``count`` threads whose median was ``then``."""
        more = self.count > count
        stalled = more and busy_ms > STALLED * then
        if len(self._ticks) < WINDOW and not stalled:
            return False
        faster = not stalled and median(self._ticks) < then
        self._ticks.clear()
        self._before = None
        if not faster:
            self.count = count
        if more:
            self._patience = REST if faster else min(2 * self._patience, LONGEST)
            self._more_in = 0 if faster else self._patience
        elif faster:
            self._more_in = self._patience
        else:
            self._fewer_in = REST
        return True
