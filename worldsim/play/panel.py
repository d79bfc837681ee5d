"""The panel beside the picture: world, score, action, response and its stages.

It is redrawn five times a second between ticks, into its own surface; the way from a key to its picture pays
for one blit of it, and for the action that lights up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldsim.play.pacing import STAGES, Timings, percentiles
from worldsim.play.pen import ACCENT, FAINT, GOOD, INK, LINE, MUTED, PANEL, RED, WARN, Area, Colour, Pen

STAGE_COLOURS: dict[str, Colour] = {
    "poll": (150, 164, 255), "decode": ACCENT, "to_uint8": (92, 214, 214), "present": GOOD,
    "encode": WARN, "outcome": (255, 138, 118), "upkeep": (226, 132, 198), "slack": LINE,
}  # fmt: skip
STAGE_LABELS = {"to_uint8": "to uint8"}

WIDTH = 264  # pixels at scale 1
RECENT = 300  # ticks that the figures cover: ten seconds at 30 a second
CHIP_LIMIT = 10  # more actions than this are shown by the present one's name alone


@dataclass
class Readout:
    """What the panel shows, beside the timings.

    Attributes:
        world: the world's name.
        about: one line under it.
        actions: names, by number.
        score_limit: the world's, or None where points have no two sides.
        lives: left, or None in a world without.
        period_ms: milliseconds a tick may take, 0 when unpaced.
        action, score, reward, frame, steps: of the present tick.
        backend: what computes it.
        recording: a recording is running.
        pilot: who has the controls; empty while the player has.
    """

    world: str
    about: str
    actions: tuple[str, ...]
    score_limit: int | None
    period_ms: float
    action: int = 0
    score: tuple[int, int] = (0, 0)
    reward: float = 0.0
    frame: int = 0
    steps: int = 0
    backend: str = "eager"
    recording: bool = False
    pilot: str = ""
    lives: int | None = None


class Panel:
    """Draws a :class:`Readout` and timings.

    Args:
        pen: to draw with.
    """

    def __init__(self, pen: Pen) -> None:
        self._pen = pen
        self._px = pen.px
        self._panel: Any = None
        self._chips: list[Area] = []
        self._drawn_action: int | None = None
        self.width = pen.px(WIDTH)

    def refresh(self, height: int, readout: Readout, timings: Timings) -> None:
        """Redraw the panel's own surface; takes about a millisecond, so call it between ticks."""
        size = (self.width, height)
        if self._panel is None or self._panel.get_size() != size:
            self._panel = self._pen.pygame.Surface(size)
        self._panel.fill(PANEL)
        self._drawn_action = None
        y = self._title(self._px(20), readout)
        for section in (self._score, self._actions, self._response, self._stages):
            bottom = section(y, readout, timings, draw=False)
            if bottom > height - self._px(44):
                break  # a low window shows what fits, the most wanted first
            self._rule(y)
            y = section(y, readout, timings, draw=True)
        self._footer(height, readout)

    def draw(self, screen: Any, left: int, readout: Readout, whole: bool) -> None:
        """Bring the panel to the screen: all of it if it changed, else only the action that lights up."""
        if self._panel is None:
            return
        if self._drawn_action is None or whole:
            self._draw_chips(readout)
            screen.blit(self._panel, (left, 0))
        elif self._drawn_action != readout.action:
            self._draw_chips(readout)
            for x, y, width, height in self._chips:
                screen.blit(self._panel, (left + x, y), (x, y, width, height))
        self._drawn_action = readout.action

    def _title(self, y: int, readout: Readout) -> int:
        margin = self._px(20)
        self._put(readout.world, 34, INK, margin, y)
        if readout.pilot:
            self._put(f"the {readout.pilot} plays  ·  M: you", 17, ACCENT, margin, y + self._px(29))
        else:
            self._put(readout.about, 17, MUTED, margin, y + self._px(29))
        if readout.recording:
            self._pill("REC", self.width - margin, y + self._px(2))
        return y + self._px(60)

    def _score(self, y: int, readout: Readout, timings: Timings, draw: bool) -> int:
        if draw:
            margin, right = self._px(20), self.width - self._px(20)
            won, lost = readout.score
            if readout.score_limit is None:
                self._put("return", 17, MUTED, margin, y + self._px(14))
                self._put(_signed(won - lost), 52, INK, margin, y + self._px(30))
            else:
                self._put("you", 17, MUTED, margin, y + self._px(14))
                self._put("opponent", 17, MUTED, margin + self._px(84), y + self._px(14))
                self._put(str(won), 52, INK, margin, y + self._px(30))
                self._put(str(lost), 52, INK, margin + self._px(84), y + self._px(30))
                self._put(f"first to {readout.score_limit}", 17, FAINT, right, y + self._px(14), right=True)
            reward = round(readout.reward)
            colour = GOOD if reward > 0 else WARN if reward < 0 else FAINT
            self._put(f"reward {_signed(reward)}", 17, colour, right, y + self._px(34), right=True)
            if readout.lives is not None:
                left = f"{readout.lives} {'life' if readout.lives == 1 else 'lives'} left"
                self._put(left, 17, MUTED, right, y + self._px(14), right=True)
            if readout.score_limit is not None:
                self._put(f"return {_signed(won - lost)}", 17, MUTED, right, y + self._px(50), right=True)
        return y + self._px(78)

    def _actions(self, y: int, readout: Readout, timings: Timings, draw: bool) -> int:
        count = len(readout.actions)
        rows = (count + 1) // 2 if count <= CHIP_LIMIT else 1
        if draw:
            margin, gap, high = self._px(20), self._px(6), self._px(22)
            wide = (self.width - 2 * margin - gap) // 2
            top = y + self._px(14)
            if count > CHIP_LIMIT:
                self._chips = [(margin, top, 2 * wide + gap, high)]
            else:
                step_x, step_y = wide + gap, high + gap
                self._chips = [(margin + i % 2 * step_x, top + i // 2 * step_y, wide, high) for i in range(count)]
        else:
            self._chips = []
        return y + self._px(14) + rows * self._px(22) + (rows - 1) * self._px(6) + self._px(14)

    def _draw_chips(self, readout: Readout) -> None:
        for number, (x, y, width, height) in enumerate(self._chips):
            chosen = len(self._chips) == 1 or number == readout.action
            name = readout.actions[readout.action if len(self._chips) == 1 else number]
            fill, ink = (ACCENT, PANEL) if chosen else (LINE, MUTED)
            self._pen.pygame.draw.rect(self._panel, PANEL, (x, y, width, height))
            self._panel.blit(self._pen.plate(width, height, fill, radius=5), (x, y))
            text = self._pen.text(name, self._px(17), ink)
            text_x, text_y = (width - text.get_width()) // 2, (height - text.get_height()) // 2 + 1
            self._panel.blit(text, (x + text_x, y + text_y))

    def _response(self, y: int, readout: Readout, timings: Timings, draw: bool) -> int:
        if draw:
            margin, right = self._px(20), self.width - self._px(20)
            response = timings.samples("response", RECENT)
            p50, p95, p99 = percentiles(response)
            self._put("response", 17, MUTED, margin, y + self._px(14))
            self._put("ms, key polled to picture", 15, FAINT, right, y + self._px(15), right=True)
            self._put(_ms(p50), 44, INK, margin, y + self._px(30))
            self._put("p95", 17, MUTED, margin + self._px(112), y + self._px(32))
            self._put("p99", 17, MUTED, margin + self._px(112), y + self._px(48))
            self._put(_ms(p95), 17, INK, right, y + self._px(32), right=True)
            self._put(_ms(p99), 17, INK, right, y + self._px(48), right=True)
            self._spark(response, y + self._px(70), self._px(30), readout.period_ms)
        return y + self._px(112)

    def _spark(self, samples: Any, top: int, high: int, period_ms: float) -> None:
        """The latest responses as bars; the top edge is one tick."""
        margin, step = self._px(20), max(2, self._px(2))
        bars = (self.width - 2 * margin) // step
        full = period_ms or max([*samples[-bars:], 1.0])
        self._pen.pygame.draw.line(self._panel, LINE, (margin, top), (margin + bars * step - 1, top))
        for i, value in enumerate(samples[-bars:]):
            tall = max(1, min(high, round(high * value / full)))
            colour = WARN if period_ms and value > period_ms else ACCENT
            self._panel.fill(colour, (margin + i * step, top + high - tall, step - 1, tall))

    def _stages(self, y: int, readout: Readout, timings: Timings, draw: bool) -> int:
        line = self._px(17)
        if draw:
            margin, right = self._px(20), self.width - self._px(20)
            columns = [right - self._px(96), right - self._px(48), right]
            rate = f"{timings.rate(RECENT):.1f} decisions/s"
            self._put(rate, 17, INK, margin, y + self._px(14))
            late = f"{timings.late} late"
            self._put(late, 17, WARN if timings.late else MUTED, right, y + self._px(14), right=True)
            top = y + self._px(36)
            figures = {name: percentiles(timings.samples(name, RECENT)) for name in STAGES}
            self._tick_bar({name: p[0] for name, p in figures.items()}, top, self._px(8))
            top += self._px(16)
            for label, column in zip(("p50", "p95", "p99"), columns, strict=True):
                self._put(label, 15, FAINT, column, top, right=True)
            for name, values in figures.items():
                top += line
                self._panel.fill(STAGE_COLOURS[name], (margin, top + self._px(3), self._px(7), self._px(7)))
                self._put(STAGE_LABELS.get(name, name), 17, MUTED, margin + self._px(14), top)
                for value, column in zip(values, columns, strict=True):
                    self._put(_ms(value), 17, INK if name != "slack" else MUTED, column, top, right=True)
        return y + self._px(52) + (len(STAGES) + 1) * line + self._px(6)

    def _tick_bar(self, medians: dict[str, float], top: int, high: int) -> None:
        """One tick from left to right, by stage."""
        margin = self._px(20)
        wide = self.width - 2 * margin
        self._panel.fill(LINE, (margin, top, wide, high))
        total = sum(value for value in medians.values() if value == value)
        x = float(margin)
        for name, value in medians.items():
            if total > 0 and value == value:
                end = x + wide * value / total
                self._panel.fill(STAGE_COLOURS[name], (round(x), top, round(end) - round(x), high))
                x = end

    def _footer(self, height: int, readout: Readout) -> None:
        y = height - self._px(30)
        self._rule(y - self._px(12))
        steps = f"{readout.steps} step{'s' if readout.steps != 1 else ''} {readout.backend}"
        left = f"frame {readout.frame}  ·  {steps}"
        self._put(left, 17, MUTED, self._px(20), y)
        self._put("H help", 17, MUTED, self.width - self._px(20), y, right=True)

    def _put(self, text: str, size: int, colour: Colour, x: int, y: int, right: bool = False) -> None:
        surface = self._pen.text(text, self._px(size), colour)
        self._panel.blit(surface, (x - surface.get_width() if right else x, y))

    def _rule(self, y: int) -> None:
        self._pen.pygame.draw.line(self._panel, LINE, (self._px(20), y), (self.width - self._px(20) - 1, y))

    def _pill(self, text: str, right: int, y: int) -> None:
        note = self._pen.text(text, self._px(17), PANEL)
        wide, high = note.get_width() + self._px(14), note.get_height() + self._px(6)
        self._panel.blit(self._pen.plate(wide, high, RED, radius=5), (right - wide, y))
        self._panel.blit(note, (right - wide + self._px(7), y + self._px(3) + 1))


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _ms(value: float) -> str:
    """A duration in milliseconds with as many digits as mean something."""
    if value != value:
        return "-"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
