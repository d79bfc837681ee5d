"""The loop: wait, poll, decode, show, and only then remember what was shown."""

from __future__ import annotations

import gc
import time

from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.machine import stolen_ms
from worldsim.play.gears import Gears
from worldsim.play.keyboard import Keyboard
from worldsim.play.overlay import Overlay
from worldsim.play.pacing import Pacer, Timings
from worldsim.play.panel import Panel, Readout
from worldsim.play.pen import ACCENT, GOOD, WARN, Colour
from worldsim.play.pilot import Pilot
from worldsim.play.recorder import Recorder
from worldsim.play.screen import Screen
from worldsim.play.script import Hand, KeyRecorder
from worldsim.play.window import Window

REFRESH_S = 0.2  # how often the panel's figures change
COLLECT_S = 5.0  # how often garbage is collected, in the slack
OVER_S = 2.0  # how long the end of an episode stays on the picture


class Game:
    """One person (or script), one session, one window.

    Args:
        session: of one row, reset.
        window, panel, overlay: to draw with.
        recorder: for films and screenshots.
        fps: ticks a second, or None for as fast as it goes.
        start: what `R` and the end of an episode go back to, see ``Session.reset``.
        hud: the panel is shown at first.
        frames: turns of the loop until it ends by itself, or None.
        script: given a turn and the latest frame, the keys to press before that turn, or to release.
        keys: where to write the keys pressed.
        gears: changes what computes the ticks; by default it stays as it is.
        pilot: who plays when the controls are handed over, or None.

    Attributes:
        timings: every stage of every tick.
        frame: the latest, ``uint8 [H, W, 3]``.
        readout: what the panel tells.
        paused: no tick until `P` or `.`.
    """

    def __init__(
        self,
        session: Session,
        window: Window,
        panel: Panel,
        overlay: Overlay,
        recorder: Recorder,
        *,
        fps: float | None,
        start: str | int | None = None,
        hud: bool = True,
        frames: int | None = None,
        script: Hand | None = None,
        keys: KeyRecorder | None = None,
        gears: Gears | None = None,
        pilot: Pilot | None = None,
    ) -> None:
        self.timings = Timings()
        self.session, self.window = session, window
        self._recorder = recorder
        self._pacer = Pacer(fps)
        self._keyboard = Keyboard(session.world.actions)
        self._start, self._frames, self._script = start, frames, script
        self._keys, self._pilot = keys, pilot
        self._gears = gears or Gears(session)
        self._planned: int | None = None  # the pilot's next action, chosen in the slack; None while a person plays
        config = session.world.config
        source = config.source.get("id")
        self.readout = Readout(
            world=config.name,
            about=f"a dream of {source}" if source else "a dream",
            actions=session.world.actions.names,
            score_limit=config.score_limit,
            lives=config.lives,
            period_ms=1000 * self._pacer.period,
            action=session.world.actions.noop,
            steps=session.steps,
            backend=session.backend,
            recording=recorder.recording,
        )
        self._screen = Screen(window, panel, overlay, self.readout, self.timings, hud)
        self._title = f"worldsim · {config.name}"
        self.frame = session.frames[0]
        self._turn = 0
        self._presses = script(0, self.frame) if script else ()
        self._done = self.paused = False
        self._over_turns = 0  # turns for which the end of an episode still shows
        self._over_text = ""
        self._refreshed = self._collected = 0.0
        self._sample: dict[str, float] | None = None  # the last tick's, which its slack will complete
        self._sample_from = 0.0
        self._stolen = stolen_ms()  # as of the last upkeep

    def run(self) -> None:
        """Play until `Esc`, the window's close button, or the last of ``frames``."""
        self.readout.steps = self.session.steps
        self._screen.begin()
        self._present()
        # A collection in mid-tick is a late tick: what exists now is set aside, the little that follows waits
        # for slack.
        enabled = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._pacer.restart()
            while not self._done and (self._frames is None or self._turn < self._frames):
                self.turn()
            self._complete_sample(time.perf_counter(), 0.0)
        finally:
            gc.unfreeze()
            if enabled:
                gc.enable()

    def turn(self) -> None:
        """One turn of the loop: a tick, or a still picture while paused or after an episode's end."""
        waiting = time.perf_counter()
        due = self._pacer.wait()
        began = time.perf_counter()
        self._complete_sample(began, began - waiting)
        for key, down in self._presses:
            self.window.post(key, down)
        events = self.window.poll()
        if self._keys is not None:
            self._keys.write(self._turn, events)
        tick = False
        for command in self._keyboard.feed(events):
            tick = self._obey(command) or tick
        self._turn += 1
        if self._done:
            return
        polled = time.perf_counter()
        if self._over_turns:
            self._over_turns -= 1
            if not self._over_turns:
                self._reset()
            self._present()
        elif self.paused and not tick:
            self._present()
        else:
            presses = sum(event.kind in ("down", "up") for event in events)
            self._tick(due, began, polled, presses, timed=not self.paused)
        self._upkeep()
        self._presses = self._script(self._turn, self.frame) if self._script else ()

    def _tick(self, due: float, began: float, polled: float, presses: int, timed: bool) -> None:
        session, readout = self.session, self.readout
        mine = self._keyboard.take_action()
        readout.action = mine if self._planned is None else self._planned
        self.frame = session.render([readout.action])[0]
        rendered = time.perf_counter()
        self._present()
        shown = time.perf_counter()
        outcome = session.commit()
        committed = time.perf_counter()
        if self._planned is not None:
            self._plan()

        readout.reward = float(outcome.reward[0])
        readout.score = (int(session.score[0, 0]), int(session.score[0, 1]))
        readout.frame = int(session.tick[0])
        if session.lives is not None:
            lost, readout.lives = readout.lives != session.lives[0], int(session.lives[0])
            if lost:
                self._screen.flash("life lost", WARN)
        if readout.reward and readout.score_limit is not None:  # elsewhere rewards may come with every tick
            won = readout.reward > 0
            self._screen.flash("point" if won else "point lost", GOOD if won else WARN)
        if outcome.terminated[0] or readout.frame >= session.world.config.max_episode_steps:
            self._end_episode(bool(outcome.terminated[0]))
        if not timed:
            return
        if self._pacer.period and shown - due > self._pacer.period:
            self.timings.late += 1
            now = stolen_ms()
            self.timings.stolen += now is not None and now > (self._stolen or 0.0)
        for _ in range(presses):
            self.timings.add({"event": 1000 * (shown - began)})
        stages = session.stopwatch.last
        self._sample = {
            "poll": 1000 * (polled - began),
            "decode": stages["decode"],
            "to_uint8": stages["to_uint8"],
            "present": 1000 * (shown - rendered),
            "response": 1000 * (shown - began),
            "encode": stages["encode"],
            "outcome": stages["outcome"],
            "upkeep": -1000 * committed,  # until the slack begins
        }
        self._sample_from = began

    def _complete_sample(self, now: float, slack: float) -> None:
        """Close the books of the last tick at the beginning of the next turn."""
        if self._sample is not None:
            self._sample["upkeep"] += 1000 * (now - slack)
            self._sample["slack"] = 1000 * slack
            self._sample["tick"] = 1000 * (now - self._sample_from)
            self.timings.add(self._sample)
            self._note(self._gears.feel(self._sample["tick"] - self._sample["slack"]), WARN)
            self._sample = None

    def _present(self) -> None:
        over = self._over_text if self._over_turns and self._screen.hud else ""
        self._screen.present(self.frame, over or ("paused" if self.paused else ""))

    def _upkeep(self) -> None:
        """What can wait until the picture is shown: the film, the panel's figures, garbage."""
        now = time.perf_counter()
        self._stolen = stolen_ms()
        self._note(self._gears.shift(), GOOD)
        self.readout.backend = self._gears.state
        if self._recorder.recording:
            self._recorder.add(self.window.pixels())
        if self._screen.has_panel and now - self._refreshed > REFRESH_S:
            self._refreshed = now
            self.readout.steps = self.session.steps
            self.readout.recording = self._recorder.recording
            self._screen.refresh()
        elif now - self._collected > COLLECT_S:
            self._collected = now
            gc.collect()

    def _note(self, text: str, colour: Colour) -> None:
        if text:
            self._screen.say(text, colour)

    def _obey(self, command: str) -> bool:
        """Do what a command key asks; True if it asks for one tick."""
        if command == "quit":
            self._done = True
        elif command == "reset":
            self._reset()
        elif command == "pause":
            self.paused = not self.paused
            self._keyboard.forget_taps()
            self._pacer.restart()
        elif command == "tick":
            return self.paused
        elif command in ("more", "fewer"):
            steps = self.session.steps + (1 if command == "more" else -1)
            self._gears.set_steps(min(64, max(1, steps)))
            self._screen.say(f"{self.session.steps} denoising step{'s' if self.session.steps > 1 else ''} a frame")
        elif command == "pilot":
            self._hand_over()
        elif command == "hud":
            self._screen.toggle_hud()
        elif command == "help":
            self._screen.help = not self._screen.help
        elif command in ("record", "screenshot"):
            self._save(command)
        return False

    def _hand_over(self) -> None:
        """Give the controls to the pilot, or take them back."""
        if self._pilot is None:
            self._screen.say("nobody knows this game: train a policy, python -m worldsim.agents.ppo", WARN)
            return
        if self._planned is None:
            self._pilot.begin()
            self._plan()
            self.readout.pilot = self._pilot.name
            self._screen.say(f"the {self._pilot.name} plays; M: you play", ACCENT)
        else:
            self._planned, self.readout.pilot = None, ""
            self._keyboard.forget_taps()
            self._screen.say("you play", ACCENT)

    def _plan(self) -> None:
        assert self._pilot is not None
        self._planned = self._pilot.act(self.session, self.frame)

    def _save(self, what: str) -> None:
        recorder = self._recorder
        try:
            text = recorder.toggle() if what == "record" else recorder.screenshot(self.window.pixels())
            self._screen.say(text, ACCENT)
            self.window.set_title(self._title + " · recording" * recorder.recording)
        except WorldsimError as error:  # a full disk does not end a game
            self._screen.say(str(error), WARN)
        self._pacer.restart()  # finishing a film takes longer than a tick

    def _reset(self) -> None:
        self.frame = self.session.reset(start=self._start)[0]
        self._over_turns = 0
        self._screen.flash("")
        readout = self.readout
        readout.score, readout.reward, readout.frame = (0, 0), 0.0, 0
        readout.lives = self.session.world.config.lives
        readout.action = self.session.world.actions.noop
        if self._planned is not None:
            assert self._pilot is not None
            self._pilot.begin()
            self._plan()
        self._pacer.restart()  # priming takes longer than a tick and is none

    def _end_episode(self, terminated: bool) -> None:
        won, lost = self.readout.score
        score = f"{won} : {lost}" if self.readout.score_limit else f"return {won - lost:+d}"
        self._over_text = f"{'episode over' if terminated else 'time is up'}   {score}"
        if self._pacer.period:
            self._over_turns = max(1, round(OVER_S / self._pacer.period))
        else:
            self._over_turns = 1
