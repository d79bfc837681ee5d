"""One writer a folder: two commands that record or train into the same place would spoil each other's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldsim.errors import WorldsimError

_NAME = ".lock"


@contextmanager
def sole_writer(folder: Path, error: type[WorldsimError]) -> Iterator[None]:
    """Hold ``folder``, which is there, until the block or this process ends, be it by a kill.

    Args:
        folder: Gets an empty file ``.lock``, which stays. Where the system has no ``flock`` nothing is held.
        error: What to raise.

    Raises:
        WorldsimError: of the kind given; another process holds the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / _NAME).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as taken:
            raise error(f"{folder} is being written by another process: wait for it, or stop it") from taken
        yield
