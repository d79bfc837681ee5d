"""Films, written by a thread of their own so that no tick waits for a disk."""

from __future__ import annotations

import os
import queue
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import WorldsimError
from worldsim.film.gif import write_gif

Frame = NDArray[np.uint8]
FORMATS = (".mp4", ".gif")


class Film:
    """Frames on their way into a file. The file appears when the film is closed, in place of an older one.

    Args:
        path: ending in ``.mp4`` (MPEG-4 part 2, OpenCV's only sure codec) or ``.gif``.
        fps: frames a second.

    Raises:
        WorldsimError: another ending, or a folder that cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = check_film_path(path)
        self.frames = 0
        self._fps = fps
        self._part = path.with_name(f".{path.stem}.part{path.suffix.lower()}")
        self._shape: tuple[int, int] | None = None
        # At most two seconds wait for the thread; then the loop waits for it.
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=max(2, round(2 * fps)))
        self._failure: Exception | None = None
        make_folder(path)
        self._thread = threading.Thread(target=self._write, name="film", daemon=True)
        self._thread.start()

    def add(self, frame: Frame) -> None:
        """Add a frame ``uint8 [H, W, 3]``, not to be changed later. The first decides the film's size."""
        self._queue.put(frame)
        self.frames += 1

    def close(self) -> Path:
        """Finish the file.

        Raises:
            WorldsimError: it could not be written; an older file of that name is intact.
        """
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            with suppress(OSError):
                self._part.unlink()
            raise WorldsimError(f"cannot write {self.path}: {self._failure}")
        if self.frames:
            os.replace(self._part, self.path)
        return self.path

    def _write(self) -> None:
        try:
            if self.path.suffix.lower() == ".gif":
                write_gif(self._part, self._packed(), self._fps)
            else:
                self._write_mp4()
        except (OSError, RuntimeError, cv2.error) as error:
            self._failure = error
            while self._queue.get() is not None:  # the loop must never wait for a thread that gave up
                pass

    def _write_mp4(self) -> None:
        writer = None
        for frame in self._taken(even=True):
            if writer is None:
                height, width = frame.shape[:2]
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(self._part), codec, self._fps, (width, height))
                if not writer.isOpened():
                    raise RuntimeError("OpenCV has no mp4v encoder here; record a .gif")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if writer is not None:
            writer.release()

    def _packed(self) -> Iterator[Frame]:
        """Frames once the last is there, kept small till then: a GIF's own packing would slow the ticks."""
        packed = [zlib.compress(frame.tobytes(), 1) for frame in self._taken(even=False)]
        for data in packed:
            assert self._shape is not None
            yield np.frombuffer(zlib.decompress(data), np.uint8).reshape(*self._shape, 3)

    def _taken(self, even: bool) -> Iterator[Frame]:
        """Frames until the film is closed, all of the first one's size (of even sides, as video wants)."""
        while (frame := self._queue.get()) is not None:
            if self._shape is None:
                height, width = frame.shape[:2]
                self._shape = (height - height % 2, width - width % 2) if even else (height, width)
            height, width = self._shape
            if frame.shape[0] - height not in (0, 1) or frame.shape[1] - width not in (0, 1):
                frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
            yield np.ascontiguousarray(frame[:height, :width])


def check_film_path(path: Path) -> Path:
    """The path, if its ending is a film's.

    Raises:
        WorldsimError: it is not.
    """
    if path.suffix.lower() not in FORMATS:
        raise WorldsimError(f"cannot record to {str(path)!r}: the name must end in {' or '.join(FORMATS)}")
    return path


def make_folder(path: Path) -> None:
    """Make the folder of a file.

    Raises:
        WorldsimError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise WorldsimError(f"cannot write {path}: {error.strerror} ({path.parent})") from error
