"""Colours, text and shapes that the panel and the overlay share."""

from __future__ import annotations

from typing import Any

Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]  # left, top, width, height in pixels

PANEL: Colour = (19, 21, 26)
LINE: Colour = (42, 46, 54)
FAINT: Colour = (92, 99, 111)
MUTED: Colour = (146, 153, 165)
INK: Colour = (233, 235, 239)
ACCENT: Colour = (116, 200, 255)
GOOD: Colour = (122, 214, 150)
WARN: Colour = (255, 180, 92)
RED: Colour = (255, 92, 92)


class Pen:
    """Draws text and plates at one scale.

    The font is pygame's own, rendered at four times its size and scaled down, which spaces letters evenly
    where hinting at small sizes does not. Each string is rendered once and kept.

    Args:
        scale: 1 for a picture 640 pixels high.
    """

    _OVER = 4
    _KEPT = 4000  # texts; frame numbers never come back

    def __init__(self, scale: float) -> None:
        import pygame

        self.pygame = pygame
        self.scale = scale
        self._fonts: dict[int, Any] = {}
        self._texts: dict[tuple[str, int, Colour], Any] = {}
        self._plates: dict[tuple[int, int, Colour, int, int], Any] = {}

    def px(self, units: float) -> int:
        """Units at scale 1 as pixels, at least one."""
        return max(1, round(units * self.scale))

    def text(self, text: str, size: int, colour: Colour) -> Any:
        """A surface with the text, ``size`` pixels from line to line."""
        key = (text, size, colour)
        found = self._texts.get(key)
        if found is None:
            if len(self._texts) > self._KEPT:
                self._texts.clear()
            if size not in self._fonts:
                self._fonts[size] = self.pygame.font.Font(None, size * self._OVER)
            large = self._fonts[size].render(text, True, colour)
            small = [max(1, round(side / self._OVER)) for side in large.get_size()]
            found = self._texts[key] = self.pygame.transform.smoothscale(large, small)
        return found

    def plate(self, width: int, height: int, colour: Colour, radius: int = 8, opacity: int = 255) -> Any:
        """A rectangle with round, smooth corners; kept, so not to be drawn on."""
        key = (width, height, colour, radius, opacity)
        found = self._plates.get(key)
        if found is None:
            radius = min(self.px(radius), width // 2, height // 2)
            dot = self.pygame.Surface((2 * radius * self._OVER,) * 2, self.pygame.SRCALPHA)
            dot.fill((*colour, 0))  # edges fade into the colour's own transparency, not into black
            self.pygame.draw.circle(dot, (*colour, opacity), dot.get_rect().center, radius * self._OVER)
            dot = self.pygame.transform.smoothscale(dot, (2 * radius, 2 * radius))
            found = self._plates[key] = self.pygame.Surface((width, height), self.pygame.SRCALPHA)
            found.fill((*colour, opacity))
            for x, dot_x in ((0, 0), (width - radius, radius)):
                for y, dot_y in ((0, 0), (height - radius, radius)):
                    found.fill((*colour, 0), (x, y, radius, radius))
                    found.blit(dot, (x, y), (dot_x, dot_y, radius, radius))
        return found
