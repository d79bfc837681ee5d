"""What the player sees: the picture, the panel beside it, and notes over it."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from worldsim.play.overlay import Overlay
from worldsim.play.pacing import Timings
from worldsim.play.panel import Panel, Readout
from worldsim.play.pen import INK, Colour
from worldsim.play.window import Window

FLASH_S, NOTE_S = 0.8, 2.5  # how long a point and a note stay on the picture

_NOTHING: tuple[str, Colour, float] = ("", INK, 0.0)


class Screen:
    """Draws what a game shows into its window.

    Args:
        window, panel, overlay: to draw with.
        readout, timings: what the panel tells; the game's own, read whenever the panel is drawn anew.
        hud: the panel is shown at first.

    Attributes:
        hud: the panel is shown.
        help: the card of keys is shown.
    """

    def __init__(
        self, window: Window, panel: Panel, overlay: Overlay, readout: Readout, timings: Timings, hud: bool
    ) -> None:
        self.hud, self.help = hud, False
        self._window, self._panel, self._overlay = window, panel, overlay
        self._readout, self._timings = readout, timings
        self._note = self._flash = _NOTHING

    @property
    def has_panel(self) -> bool:
        """Whether the panel is on the screen: it is wanted and there is room for it."""
        return self._window.panel_width > 0

    def begin(self) -> None:
        """Place and draw the panel for the first time."""
        self._place_panel()
        self.refresh()

    def refresh(self) -> None:
        """Draw the panel anew, with the figures of now; takes about a millisecond."""
        self._panel.refresh(self._window.screen.get_height(), self._readout, self._timings)

    def toggle_hud(self) -> None:
        """Show the panel, or hide it."""
        self.hud = not self.hud
        self._window.changed = True

    def say(self, text: str, colour: Colour = INK) -> None:
        """Show a note at the bottom for a while."""
        self._note = (text, colour, time.perf_counter() + NOTE_S)

    def flash(self, text: str, colour: Colour = INK) -> None:
        """Show what just happened at the top for a moment; an empty text ends it."""
        self._flash = (text, colour, time.perf_counter() + FLASH_S)

    def present(self, frame: NDArray[np.uint8], large: str = "") -> None:
        """Draw a frame ``uint8 [H, W, 3]`` and whatever lies over it, and flip.

        Args:
            frame: the picture.
            large: text in its middle.
        """
        window, overlay = self._window, self._overlay
        if window.changed:
            self._place_panel()
            if self.has_panel:
                self.refresh()
        window.draw(frame)
        area = window.picture_area()
        if self.has_panel:
            left = window.screen.get_width() - window.panel_width
            self._panel.draw(window.screen, left, self._readout, whole=window.changed)
        now = time.perf_counter()
        if self.help:
            overlay.draw_help(window.screen, area)
        elif large:
            overlay.draw_note(window.screen, area, large, INK, 0.45, large=True)
        elif self.hud and self._flash[0] and now < self._flash[2]:
            overlay.draw_note(window.screen, area, self._flash[0], self._flash[1], 0.04)
        if self._note[0] and now < self._note[2]:
            overlay.draw_note(window.screen, area, self._note[0], self._note[1], 0.96)
        window.flip()

    def _place_panel(self) -> None:
        """The panel stands beside the picture, unless it would take more than half of the window."""
        fits = self._window.screen.get_width() >= 2 * self._panel.width
        self._window.panel_width = self._panel.width if self.hud and fits else 0
