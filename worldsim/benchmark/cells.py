"""What is measured: cells, the product of all settings that are given as lists."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from worldsim.errors import WorldsimError
from worldsim.model.designs import SEPARABLE, Design
from worldsim.schema import from_dict

#: What a cell's process is told in its environment. glibc maps large blocks and gives them back when they are freed;
#: with high thresholds it keeps them.
ALLOCATORS = {
    "default": {},
    "keep": {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)},
}


@dataclass(frozen=True)
class Cell:
    """One way to run a world.

    Attributes:
        world: Name or folder of a world, or a peer's: ``diamond:<clone>``, see :mod:`worldsim.benchmark.peers`.
        model: ``scd`` is the world's own. Others put a diffusion transformer of its size and with random weights in its
            place, see :class:`~worldsim.model.designs.Design`: ``dit`` frame-causal, ``dit:<k>`` causal in chunks of k
            frames, ``clip:<k>`` bidirectional over k frames and those before, ``stream:<n>`` over a moving buffer of n
            frames, ``stream-causal:<n>`` over one whose frames see none after them. For latency only.
        backend: See :data:`worldsim.engine.backends.BACKENDS`.
        device: Of PyTorch.
        dtype: ``float32``, ``bfloat16``, or None for the faster one of the device.
        steps: Denoising steps a frame; None takes the world's own.
        batch: Rows.
        window: Frames that the encoder sees; None takes the world's own. Another one changes what is computed and
            remembered, not what was learned: for latency only.
        threads: CPU threads of PyTorch; None takes one for each physical core.
        without: An optimisation that is left out, see :mod:`worldsim.benchmark.ablations`; None leaves all in.
        allocator: ``default``, or ``keep``: glibc keeps freed memory instead of giving it back to the system.
        surface: ``engine`` times the session alone, ``window`` the player with a real window (without a display, SDL's
            dummy driver), from the posting of a key to the return of flip().

    Raises:
        WorldsimError: a setting is out of range.
    """

    world: str = "pong"
    model: str = SEPARABLE
    backend: str = "eager"
    device: str = "cpu"
    dtype: str | None = None
    steps: int | None = None
    batch: int = 1
    window: int | None = None
    threads: int | None = None
    without: str | None = None
    allocator: str = "default"
    surface: str = "engine"

    def __post_init__(self) -> None:
        ranges = {"steps": (1, 64), "batch": (1, 65536), "window": (2, 1024), "threads": (1, 1024)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not low <= value <= high):
                raise WorldsimError(f"{name} is {value}, it must be from {low} to {high}")
        if self.surface not in ("engine", "window"):
            raise WorldsimError(f"surface is {self.surface!r}: there is engine and window")
        if self.model != SEPARABLE:
            Design.parse(self.model)
            # Another design has no encoder that could rest: beside it, that of the separable one is to run.
            if self.surface != "engine" or self.without not in (None, "resting_encoder"):
                raise WorldsimError(
                    f"model={self.model} is measured as an engine and as it is: leave surface and without out"
                )
        if self.allocator not in ALLOCATORS:
            raise WorldsimError(f"allocator is {self.allocator!r}: there is {' and '.join(ALLOCATORS)}")
        if self.without and (self.surface != "engine" or self.backend != "eager"):
            raise WorldsimError(f"without={self.without} is for backend=eager surface=engine: leave it out of others")
        if self.surface == "window" and (self.batch > 1 or self.window):
            raise WorldsimError(
                "a window shows one row of a world as it is: leave batch and window out of surface=window"
            )

    @property
    def label(self) -> str:
        """The cell in a few words, for a progress bar or an error."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value is not None)


def product(settings: Mapping[str, Any]) -> list[Cell]:
    """The cells of settings of which any may be a list; the last key varies fastest.

    Raises:
        WorldsimError: an empty list, or a value that does not fit.
    """
    names = [field.name for field in fields(Cell)]
    values: list[Sequence[Any]] = []
    for name in names:
        given = settings[name]
        choices = list(given) if isinstance(given, list | tuple) else [given]
        if not choices:
            raise WorldsimError(f"{name} is an empty list: give at least one value")
        values.append(choices)
    cells = [from_dict(Cell, dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*values)]
    return list(dict.fromkeys(cells))
