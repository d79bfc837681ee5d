"""`worldsim play`: settings, and everything that the game needs around it."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldsim.errors import BackendError, WorldsimError
from worldsim.settings import command, from_dict, home

if TYPE_CHECKING:
    from worldsim.engine.session import Session
    from worldsim.play.game import Game
    from worldsim.play.script import Hand, Script
    from worldsim.world import World

HEADLESS_FRAMES, HEADLESS_KEYS = 300, "random"
SCRIPT_S = 3600.0  # how long a named script lasts where nothing else ends the game
# A tick is hundreds of small products, and each waits for its last thread. Beside a program that kept both of two
# cores busy, two threads took nine times as long as one: leave cores to others. See also worldsim/play/threads.py.
MOST_THREADS = 4
WARM_UP = 3  # ticks; PyTorch's first ones prepare kernels and take ten times as long


@dataclass(frozen=True)
class PlayConfig:
    """Settings of a game; ``configs/play.yaml`` says what each does.

    Raises:
        WorldsimError: a setting is out of range.
    """

    world: str = "pong"
    steps: int | None = None
    fps: float | None = None
    size: int = 640
    hud: bool = True
    start: str | None = None
    seed: int | None = None
    threads: int | None = None
    device: str = "cpu"
    dtype: str | None = None
    backend: str = "auto"
    unpaced: bool = False
    headless: bool = False
    frames: int | None = None
    keys: str | None = None
    policy: str | None = None
    record: str | None = None
    record_keys: str | None = None
    report: str | None = None

    def __post_init__(self) -> None:
        ranges = {"steps": (1, 64), "fps": (1, 1000), "size": (64, 8192), "threads": (1, 1024)}
        ranges["frames"] = (1, 10**9)
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise WorldsimError(f"{name} is {value}, it must be from {low} to {high}")


@command("play")
def main(config: dict[str, Any]) -> None:
    """Play a world: your keys go in, the network's pictures come out."""
    play(from_dict(PlayConfig, config))


def play(config: PlayConfig) -> dict[str, Any]:
    """Play one game to its end and print what it cost.

    Returns:
        The report of latencies, see :func:`worldsim.play.report.make_report`.

    Raises:
        WorldsimError: whatever of the settings cannot be had, before the first tick.
    """
    from worldsim.play.window import require_display

    if not config.headless:
        require_display()
    # Everything that can be wrong is looked at before a window opens.
    if config.record:
        from worldsim.film.film import check_film_path

        check_film_path(Path(config.record))
    world, session, seed = open_session(config)
    from worldsim.play.report import as_table, make_report, write_report

    with ExitStack() as stack:
        game = open_game(config, world, session, seed, stack)
        game.run()
        report = make_report(
            {
                "world": world.name,
                "source": world.config.source,
                "steps": session.steps,
                "fps": None if config.unpaced else config.fps or world.config.fps,
                "dtype": str(session.dtype).removeprefix("torch."),
                "device": str(session.device),
                "backend": session.backend,
                "seed": seed,
                "keys": config.keys or (HEADLESS_KEYS if config.headless else None),
                "size": config.size,
                "hud": config.hud,
            },
            game.timings,
        )
    print(as_table(report))
    if config.report:
        write_report(Path(config.report).expanduser(), report, game.timings)
        print(f"wrote {config.report}")
    return report


def open_session(config: PlayConfig) -> tuple[World, Session, int]:
    """A warm session at the start of an episode, and its seed."""
    import torch

    from worldsim.engine.session import Session
    from worldsim.machine import physical_cores
    from worldsim.world import load_world

    torch.set_num_threads(config.threads or min(MOST_THREADS, physical_cores()))
    world = load_world(config.world)
    seed = secrets.randbelow(2**31) if config.seed is None else config.seed
    backend = first_backend(world, config.device, config.dtype) if config.backend == "auto" else config.backend
    session = Session(world, steps=config.steps, seed=seed, device=config.device, dtype=config.dtype, backend=backend)
    session.reset(start=find_start(config.start))
    for _ in range(WARM_UP):
        session.step([world.actions.noop])
    session.reset(start=find_start(config.start), seed=seed)
    return world, session, seed


def first_backend(world: World, device: str, dtype: str | None) -> str:
    """What ``backend=auto`` starts with: the fastest there that needs no compiler, so that a game begins at once."""
    import torch

    from worldsim.engine.backends import int8
    from worldsim.engine.precision import has_native_bfloat16, pick_device

    place = pick_device(device)
    if place.type == "cuda":
        return "cudagraphs"
    if dtype is None and not has_native_bfloat16(place) and int8.rounds(world.model_on(place, torch.float32)):
        with suppress(BackendError):
            return int8.make(place).name
    return "torchscript"


def gains_by_compiling(session: Session) -> bool:
    """Whether a compiled step in float32 or bfloat16 answers faster than what ``backend=auto`` starts with.

    Not where int8 makes the pictures: of tokens a float32 library made them no faster (docs/performance.md).
    """
    return session.backend != "int8" or session.world.config.model.decoder != "tokens"


def find_start(text: str | None) -> str | int | None:
    """A start as the command line names it, as a session takes it: all digits mean a number."""
    return int(text) if text is not None and text.isdecimal() else text


def open_game(config: PlayConfig, world: World, session: Session, seed: int, stack: ExitStack) -> Game:
    """The game of a session in a window; the stack closes the window and finishes films."""
    from worldsim.film.film import Film
    from worldsim.play.game import Game
    from worldsim.play.gears import Gears
    from worldsim.play.keyboard import key_table
    from worldsim.play.overlay import Overlay
    from worldsim.play.panel import Panel
    from worldsim.play.pen import Pen
    from worldsim.play.pilot import find_pilot
    from worldsim.play.recorder import Recorder
    from worldsim.play.script import KeyRecorder
    from worldsim.play.threads import Threads
    from worldsim.play.upgrade import Upgrade
    from worldsim.play.window import Window
    from worldsim.world import find_world

    policy = Path(config.policy).expanduser() if config.policy else None
    pilot = find_pilot(session, find_world(config.world), policy, seed)
    fps = config.fps or world.config.fps
    frames = config.frames or (HEADLESS_FRAMES if config.headless else None)
    keys = config.keys or (HEADLESS_KEYS if config.headless else None)
    script, hand = _who_plays(keys, world, frames or round(SCRIPT_S * fps), fps, seed)
    model = world.config.model
    scale = config.size / max(model.height, model.width)
    size = round(model.width * scale), round(model.height * scale)
    pen = Pen(min(3.0, max(0.75, size[1] / 640)))
    panel = Panel(pen)
    room = panel.width if config.hud and panel.width <= size[0] else 0
    window = stack.enter_context(Window(size, room, f"worldsim · {world.name}", config.headless))
    for key in {key for events in script.values() for key, _ in events}:
        window.key_code(key)  # unknown ones are refused here and not in the middle of a game
    record_keys = Path(config.record_keys).expanduser() if config.record_keys else None
    film = Film(Path(config.record).expanduser(), fps) if config.record else None
    recorder = stack.enter_context(Recorder(_output_folder(), world.name, fps, film))
    upgrade = threads = None
    # What is changed on the way is chance, and last bits differ; a given seed asks for the same dream again.
    if session.device.type == "cpu" and config.seed is None and not config.headless:
        if config.backend == "auto" and gains_by_compiling(session):
            upgrade = Upgrade(config.world, session)
            stack.callback(upgrade.close)
        if config.threads is None and not config.unpaced:
            import torch

            threads = Threads(torch.get_num_threads(), 1000 / fps)
    return Game(
        session,
        window,
        panel,
        Overlay(pen, key_table(world.actions)),
        recorder,
        fps=None if config.unpaced else fps,
        start=find_start(config.start),
        hud=config.hud,
        frames=frames,
        script=hand,
        keys=stack.enter_context(KeyRecorder(record_keys)) if record_keys else None,
        gears=Gears(session, upgrade, threads),
        pilot=pilot,
    )


def _who_plays(keys: str | None, world: World, turns: int, fps: float, seed: int) -> tuple[Script, Hand | None]:
    """The script that `keys` names, to be checked, and what presses its keys."""
    from worldsim.play.script import load_script

    if keys == "auto":
        from worldsim.play.autopilot import Autopilot

        return {}, Autopilot(world, seed).presses
    if keys is None:
        return {}, None
    script = load_script(keys, world.actions, turns, fps, seed)
    return script, lambda turn, frame: script.get(turn, ())


def _output_folder() -> Path:
    """Where screenshots and recordings go: here, or home where here is not writable."""
    return Path.cwd() if os.access(Path.cwd(), os.W_OK) else home()
