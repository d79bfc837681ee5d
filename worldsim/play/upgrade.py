"""From the step that starts at once to the one that is fast: compiled beside the game, swapped in between two ticks."""

from __future__ import annotations

import shutil
import subprocess
import threading

from worldsim.engine.prepare import Parts
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError

COMPILED = "aoti"  # the backend that it makes


class Upgrade:
    """Has AOTInductor's library for a session's tick found or made, in a thread and a process beside the game.

    Args:
        world: As the player was told.
        session: Of one row on a CPU, whose parts are to be made. Nothing of it changes here.

    Attributes:
        state: What the panel says of it.
    """

    def __init__(self, world: str, session: Session) -> None:
        self._world, self._session = world, session
        self._process: subprocess.Popen[str] | None = None
        self._made: Parts | None = None
        self._round = 0
        self.state = ""
        self.restart()

    def restart(self) -> None:
        """Begin (again), for the session's present number of steps."""
        self._round += 1
        self._made = None
        self._stop_process()
        threading.Thread(target=self._work, args=(self._round,), daemon=True, name="upgrade").start()

    def take(self) -> Parts | None:
        """The finished parts, once."""
        made, self._made = self._made, None
        return made

    def close(self) -> None:
        """Forget about it."""
        self._round += 1
        self._stop_process()

    def _stop_process(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _work(self, turn: int) -> None:
        from worldsim.engine.backends.aoti import NotCompiled

        try:
            made = self._load()
        except NotCompiled:
            if not can_compile():
                return
            self.state = "compiling"
            if not self._compile(turn):
                self.state = ""
                return
            made = self._load()
        except WorldsimError:
            return  # the game goes on as it is
        finally:
            if turn == self._round and self.state == "compiling":
                self.state = ""
        if turn == self._round:
            self._made = made

    def _load(self) -> Parts:
        from worldsim.engine.backends.aoti import AOTInductor

        return self._session.make_parts(AOTInductor(compiles=False))

    def _compile(self, turn: int) -> bool:
        import torch

        from worldsim.engine.compile import start

        session = self._session
        dtype = str(session.dtype).removeprefix("torch.")
        self._process = start(self._world, session.steps, dtype, torch.get_num_threads())
        self._process.communicate()
        return self._process.returncode == 0 and turn == self._round


def can_compile() -> bool:
    """Whether there is a C++ compiler."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
