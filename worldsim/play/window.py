"""The window: a picture enlarged in blocks, and the keys pressed over it. Only here is SDL talked to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DisplayError, WorldsimError
from worldsim.play.keyboard import KeyEvent

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

HOW_WITHOUT = "to play without a window: python play.py headless=true frames=300"
BACKGROUND = (13, 15, 18)
_UNIX = sys.platform.startswith(("linux", "freebsd", "openbsd", "netbsd"))
_DISPLAYS = {"x11": "DISPLAY", "wayland": "WAYLAND_DISPLAY"}  # SDL's driver -> what says that there is one


def require_display() -> None:
    """Fail now where SDL would hang or draw into nothing.

    Raises:
        DisplayError: Linux or BSD without an X or Wayland display, and no SDL driver chosen by the user.
    """
    if _UNIX and not any(os.environ.get(name) for name in (*_DISPLAYS.values(), "SDL_VIDEODRIVER")):
        raise DisplayError(f"no display: DISPLAY and WAYLAND_DISPLAY are not set; {HOW_WITHOUT}")


class Window:
    """A resizable window with a picture of fixed aspect, and room for a panel at its right.

    Args:
        size: picture (width, height) in pixels.
        panel: width of the room at its right in pixels, 0 for none.
        title: of the window.
        headless: draw into memory only.

    Raises:
        DisplayError: no window can be opened.
    """

    def __init__(self, size: tuple[int, int], panel: int, title: str, headless: bool = False) -> None:
        import pygame

        self._pygame = pygame
        self._aspect = size[0] / size[1]
        self._small: Any = None
        self.panel_width = panel
        try:
            with _driver("dummy" if headless else _drivers()):
                pygame.display.init()  # not pygame.init(): opening a sound card may take seconds
            pygame.font.init()
            if pygame.display.get_driver() == "x11":
                # Not through OpenGL, which may be software: 4.4 ms a flip on Xvfb, against 0.4 ms.
                os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
            flags = 0 if headless else pygame.RESIZABLE
            self.screen: Any = pygame.display.set_mode((size[0] + panel, size[1]), flags)
        except pygame.error as error:
            raise DisplayError(f"no window can be opened ({error}); {HOW_WITHOUT}") from error
        self.set_title(title)
        # Only what is read is queued: mouse moves cost time in the poll.
        pygame.event.set_blocked(None)
        pygame.event.set_allowed([pygame.KEYDOWN, pygame.KEYUP, pygame.QUIT, pygame.WINDOWFOCUSLOST])
        pygame.event.set_allowed([pygame.VIDEORESIZE, pygame.WINDOWEXPOSED])
        self.changed = True  # the whole window has to be drawn again
        self.screen.fill(BACKGROUND)
        pygame.display.flip()

    def set_title(self, title: str) -> None:
        """Change the text on the window's frame."""
        self._pygame.display.set_caption(title)

    def poll(self) -> list[KeyEvent]:
        """Everything that happened since the last poll, in order."""
        pygame, events = self._pygame, []
        for event in pygame.event.get():
            if event.type in (pygame.KEYDOWN, pygame.KEYUP):
                name, text = pygame.key.name(event.key), getattr(event, "unicode", "")
                events.append(KeyEvent("down" if event.type == pygame.KEYDOWN else "up", name, text))
            elif event.type == pygame.WINDOWFOCUSLOST:
                events.append(KeyEvent("blur"))
            elif event.type == pygame.QUIT:
                events.append(KeyEvent("quit"))
            else:
                self.screen = pygame.display.get_surface()
                self.changed = True
        return events

    def post(self, key: str, down: bool) -> None:
        """Press or release a key by its pygame name, as if by hand."""
        pygame = self._pygame
        text = key if len(key) == 1 else ""
        kind = pygame.KEYDOWN if down else pygame.KEYUP
        pygame.event.post(pygame.event.Event(kind, key=self.key_code(key), unicode=text))

    def key_code(self, key: str) -> int:
        """The code of a key by its pygame name.

        Raises:
            WorldsimError: there is no such key.
        """
        try:
            return int(self._pygame.key.key_code(key))
        except ValueError as error:
            raise WorldsimError(f"unknown key {key!r}: use pygame's names, such as up, w or space") from error

    def picture_area(self) -> tuple[int, int, int, int]:
        """Where the picture goes: (left, top, width, height), as large as fits beside the panel."""
        width, height = self.screen.get_size()
        room = max(1, width - self.panel_width)
        w = max(1, min(room, round(height * self._aspect)))
        h = max(1, min(height, round(w / self._aspect)))
        return (room - w) // 2, (height - h) // 2, w, h

    def draw(self, frame: NDArray[np.uint8]) -> None:
        """Draw a frame ``uint8 [H, W, 3]``, enlarged to the picture's area without smoothing."""
        pygame = self._pygame
        height, width = frame.shape[:2]
        if self._small is None or self._small.get_size() != (width, height):
            self._small = pygame.Surface((width, height))  # in the window's format, or scale() refuses
        self._small.blit(pygame.image.frombuffer(np.ascontiguousarray(frame), (width, height), "RGB"), (0, 0))
        if self.changed:
            self.screen.fill(BACKGROUND)
        area = self.picture_area()
        pygame.transform.scale(self._small, area[2:], self.screen.subsurface(area))

    def flip(self) -> None:
        """Show what was drawn."""
        self._pygame.display.flip()
        self.changed = False

    def pixels(self) -> NDArray[np.uint8]:
        """A copy of the window's content, ``uint8 [H, W, 3]``."""
        width, height = self.screen.get_size()
        data = self._pygame.image.tobytes(self.screen, "RGB")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *error: object) -> None:
        self._pygame.display.quit()


def _drivers() -> str:
    """SDL's video drivers to try, by what the environment offers; "" leaves the choice to SDL.

    SDL itself would fall back on drawing into nothing where a display is named but does not answer.
    """
    if os.environ.get("SDL_VIDEODRIVER") or not _UNIX:
        return ""
    return ",".join(name for name, variable in _DISPLAYS.items() if os.environ.get(variable))


@contextmanager
def _driver(name: str) -> Iterator[None]:
    """SDL reads its video driver from the environment."""
    before = os.environ.get("SDL_VIDEODRIVER")
    if name:
        os.environ["SDL_VIDEODRIVER"] = name
    try:
        yield
    finally:
        if name:
            del os.environ["SDL_VIDEODRIVER"]
        if before is not None:
            os.environ["SDL_VIDEODRIVER"] = before
