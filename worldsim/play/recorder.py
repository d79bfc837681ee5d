"""The films and screenshots of a game, under names of their own."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2

from worldsim.film.film import Film, Frame, make_folder


class Recorder:
    """The films and screenshots of one game; closing it finishes them and says where they are.

    Args:
        folder: where ``recordings/`` and ``screenshots/`` go.
        name: their names begin with it.
        fps: frames a second of the films.
        film: one that runs from the beginning.
    """

    def __init__(self, folder: Path, name: str, fps: float, film: Film | None = None) -> None:
        self._folder, self._name, self._fps, self._film = folder, name, fps, film
        self._threads: list[threading.Thread] = []
        self._written: list[Path] = []

    @property
    def recording(self) -> bool:
        """Whether a film runs."""
        return self._film is not None

    def add(self, frame: Frame) -> None:
        """Add a frame to the film that runs."""
        assert self._film is not None
        self._film.add(frame)

    def toggle(self) -> str:
        """Start a film, or finish the one that runs.

        Returns:
            Where the finished film is, for the player; nothing for a new one, whose first frames would show it.

        Raises:
            WorldsimError: the film cannot be started, or could not be written.
        """
        if self._film is not None:
            return f"saved {_short(self._finish())}"
        self._film = Film(_dated(self._folder / "recordings", self._name, ".mp4"), self._fps)
        return ""

    def screenshot(self, frame: Frame) -> str:
        """Write a frame as PNG, in a thread.

        Returns:
            Where it goes, for the player.

        Raises:
            WorldsimError: the folder cannot be written.
        """
        path = _dated(self._folder / "screenshots", self._name, ".png")
        make_folder(path)
        pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        thread = threading.Thread(target=cv2.imwrite, args=(str(path), pixels), name="screenshot")
        thread.start()
        self._threads.append(thread)
        self._written.append(path)
        return f"saved {_short(path)}"

    def _finish(self) -> Path:
        film, self._film = self._film, None
        assert film is not None
        path = film.close()
        if film.frames:
            self._written.append(path)
        return path

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self._threads:
            thread.join()
        if self._film is not None:
            if self._film.path.suffix.lower() == ".gif":
                print(f"packing {self._film.path} ...", flush=True)
            self._finish()
        for path in self._written:
            print(f"wrote {_short(path)}")


def _dated(folder: Path, stem: str, suffix: str) -> Path:
    """A path that is not taken: ``folder/stem-20261121-093012.png``, numbered if need be."""
    name = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = folder / f"{name}{suffix}", 2
    while path.exists():
        path, number = folder / f"{name}-{number}{suffix}", number + 1
    return path


def _short(path: Path) -> str:
    """A path relative to here where it can be."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
