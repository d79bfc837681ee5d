"""How many threads a tick gets: fewer where other programs want the cores too."""

from __future__ import annotations

from statistics import median

WINDOW = 15  # ticks that are looked at together: half a second
REST = 120  # windows until it is tried again after it did not help: a minute


class Threads:
    """Tries half of the threads when ticks take longer than they may, and keeps the number that was faster.

    A tick is hundreds of small products, and each waits for its last thread. Where that has no core of its own, all
    wait: beside a training on two cores a game made 3 ticks a second with two threads and 29 with one.

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
        self._before: tuple[int, float] | None = None  # while fewer are tried: how many there were, and their median
        self._rest = 0

    def feed(self, busy_ms: float) -> bool:
        """Told how long a tick took, without its slack; True if :attr:`count` changed, or is to stay after a trial."""
        self._ticks.append(busy_ms)
        if len(self._ticks) < WINDOW:
            return False
        now = median(self._ticks)
        self._ticks.clear()
        if self._before is not None:
            count, then = self._before
            self._before = None
            if now >= then:
                self.count, self._rest = count, REST
            return True
        self._rest = max(0, self._rest - 1)
        if now <= self._period or self.count == 1 or self._rest:
            return False
        self._before = self.count, now
        self.count //= 2
        return True
