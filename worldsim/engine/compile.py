"""`python -m worldsim.engine.compile '<json>'`: put a world's AOTInductor libraries on disk, at the lowest priority.

A process of its own, because a compiler in the process that plays would make it late.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from worldsim.errors import WorldsimError


def start(world: str, steps: int, dtype: str, threads: int) -> subprocess.Popen[str]:
    """Start compiling a world's tick of one row for a CPU; the process's exit code is 0 once it is on disk.

    Args:
        world: As :func:`~worldsim.world.load_world` takes it.
        steps: Denoising steps.
        dtype: ``float32`` or ``bfloat16``.
        threads: Of PyTorch, for which the loops are divided.
    """
    order = json.dumps({"world": world, "steps": steps, "dtype": dtype, "threads": threads})
    return subprocess.Popen(
        [sys.executable, "-m", "worldsim.engine.compile", order],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def main(order: dict[str, Any]) -> None:
    """Compile what an order of :func:`start` asks for."""
    _yield_to_all()
    import torch

    from worldsim.engine.session import Session
    from worldsim.world import load_world

    torch.set_num_threads(order["threads"])
    Session(load_world(order["world"]), steps=order["steps"], dtype=order["dtype"], backend="aoti").close()


def _yield_to_all() -> None:
    """Run only when nothing else wants to: a game's threads wait for each other, so one without a core stops all."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(19)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except WorldsimError as error:
        sys.exit(f"{error}")
