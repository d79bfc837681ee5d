"""What is drawn over the picture: the card of keys, and notes."""

from __future__ import annotations

from typing import Any

from worldsim.play.pen import ACCENT, INK, PANEL, Area, Colour, Pen


class Overlay:
    """Draws over the picture.

    Args:
        pen: to draw with.
        help_rows: (keys, what they do).
    """

    def __init__(self, pen: Pen, help_rows: list[tuple[str, str]]) -> None:
        self._pen = pen
        self._help_rows = help_rows
        self._help: tuple[tuple[int, int], Any] | None = None

    def draw_help(self, screen: Any, area: Area) -> None:
        """The card of keys in the middle of the picture."""
        if self._help is None or self._help[0] != area[2:]:
            self._help = (area[2:], self._help_card(area[2], area[3]))
        card = self._help[1]
        left, top = (area[2] - card.get_width()) // 2, (area[3] - card.get_height()) // 2
        screen.blit(card, (area[0] + left, area[1] + top))

    def draw_note(
        self, screen: Any, area: Area, text: str, colour: Colour, where: float, large: bool = False
    ) -> None:
        """A short text on a dark plate, ``where`` (0 top, 1 bottom) of the way down the picture."""
        size = 34 if large else 19
        note = self._pen.text(text, self._pen.px(size), colour)
        while note.get_width() > area[2] * 0.94 and size > 9:
            size -= 1
            note = self._pen.text(text, self._pen.px(size), colour)
        pad_x, pad_y = self._pen.px(22 if large else 14), self._pen.px(14 if large else 8)
        wide, high = note.get_width() + 2 * pad_x, note.get_height() + 2 * pad_y
        plate = self._pen.plate(wide, high, PANEL, opacity=225).copy()
        plate.blit(note, (pad_x, pad_y + 1))
        screen.blit(plate, (area[0] + (area[2] - wide) // 2, area[1] + round((area[3] - high) * where)))

    def _help_card(self, width: int, height: int) -> Any:
        rows = self._help_rows
        factor = min(1.0, 0.92 * height / self._pen.px(25 * len(rows) + 76), 0.94 * width / self._pen.px(520))
        size = max(9, round(self._pen.px(20) * factor))
        line, pad, gap = round(size * 1.25), round(size * 1.4), round(size * 1.3)
        keys = [self._pen.text(keys, size, ACCENT) for keys, _ in rows]
        texts = [self._pen.text(text, size, INK) for _, text in rows]
        column = max(key.get_width() for key in keys)
        head = self._pen.text("Keys", round(size * 1.5), INK)
        wide = min(width, 2 * pad + column + gap + max(text.get_width() for text in texts))
        high = min(height, 2 * pad + round(size * 2) + line * len(rows))
        card = self._pen.plate(wide, high, PANEL, opacity=235).copy()
        card.blit(head, (pad, pad))
        y = pad + round(size * 2)
        for key, text in zip(keys, texts, strict=True):
            card.blit(key, (pad, y))
            card.blit(text, (pad + column + gap, y))
            y += line
        return card
