"""What computes a game's ticks, changed between two of them: threads, denoising steps, the compiled step."""

from __future__ import annotations

import torch

from worldsim.engine.prepare import Parts
from worldsim.engine.session import Session
from worldsim.play.threads import Threads
from worldsim.play.upgrade import COMPILED, Upgrade


class Gears:
    """Keeps a session's ticks as fast as they can be had.

    Args:
        session: of one row.
        upgrade: makes a compiled step beside the game, or None.
        threads: finds out how many threads of PyTorch are fast, or None to leave them as they are.
    """

    def __init__(self, session: Session, upgrade: Upgrade | None = None, threads: Threads | None = None) -> None:
        self._session, self._upgrade, self._threads = session, upgrade, threads
        self._kept = threads.count if threads else 0
        self._plain: Parts | None = None  # what ran the ticks until the compiled step did
        self._compiled: Parts | None = None

    @property
    def state(self) -> str:
        """What computes the ticks, or that something faster is being made, in a word."""
        return (self._upgrade.state if self._upgrade else "") or self._session.backend

    def shift(self) -> str:
        """Put the compiled step in, if it is ready.

        Returns:
            A note for the player; empty if nothing changed.
        """
        parts = self._upgrade.take() if self._upgrade else None
        if parts is not None and len(parts.levels) == self._session.steps + 1:
            self._compiled = parts
            if self._choose():
                return "compiled step: from here on every frame is made by it"
        return ""

    def feel(self, busy_ms: float) -> str:
        """Told how long a tick took, in milliseconds without its slack; gives it as many threads as help.

        Returns:
            A note for the player; empty if nothing changed for good.
        """
        if self._threads is None or not self._threads.feed(busy_ms):
            return ""
        count = self._threads.count
        kept = torch.get_num_threads() == count
        torch.set_num_threads(count)
        self._choose()
        if not kept:
            return ""
        fewer, self._kept = count < self._kept, count
        return f"the cores are {'busy' if fewer else 'free again'}: threads={count} from here on"

    def set_steps(self, steps: int) -> None:
        """Denoise in so many steps, 1 to 64, from the next tick on."""
        self._compiled = None  # compiling takes too long for a key
        self._choose()
        self._session.steps = steps
        if self._upgrade is not None:
            self._upgrade.restart()

    def _choose(self) -> bool:
        """Run the compiled step where there is one and it has all threads, by which its loops are divided for good.

        Returns:
            Whether it took over.
        """
        crowded = self._threads is not None and self._threads.count < self._threads.most
        fast = None if crowded else self._compiled
        runs = self._session.backend == COMPILED
        if fast is not None and not runs:
            self._plain = self._session.adopt(fast)
        elif fast is None and runs and self._plain is not None:
            self._session.adopt(self._plain)
        return fast is not None and not runs
