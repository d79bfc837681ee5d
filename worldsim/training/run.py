"""A run folder: settings, checkpoint, scalars, samples, the world so far, and a page that explains them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.checkpoint import write_atomically
from worldsim.errors import RunError

PAGE = """# A worldsim training run

Made by `{command}`; the same command continues it where it stopped, bit for bit.

| file | what it is |
|---|---|
| settings.json | everything the run was told, and what the data set said of itself |
| checkpoint.safetensors | weights, their average, optimiser state, step; replaced at least once a minute |
| checkpoint.*.safetensors | of processes that train together: what each of the others alone knows at that step |
| tensorboard/ | scalars: `tensorboard --logdir {folder}` |
| samples/ | roll-out grids, real play above the dream under the same actions, held-out starts |
| world/ | the averaged weights as a world: `python play.py world={folder}/world` |
"""


@dataclass(frozen=True)
class Run:
    """The folder of one training run."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The training state."""
        return self.folder / "checkpoint.safetensors"

    def share(self, rank: int, step: int) -> Path:
        """What a process other than the leading one alone knows, at a checkpoint's step."""
        return self.folder / f"checkpoint.{rank}-{step}.safetensors"

    def forget_shares(self, step: int) -> None:
        """Remove those of other steps than the checkpoint's."""
        for path in self.folder.glob("checkpoint.*-*.safetensors"):
            if not path.name.endswith(f"-{step}.safetensors"):
                path.unlink(missing_ok=True)

    @property
    def samples(self) -> Path:
        """Roll-out grids."""
        return self.folder / "samples"

    @property
    def parent(self) -> Path:
        """How the world was made whose weights the run started from; only where it did."""
        return self.folder / "parent.md"

    @property
    def world(self) -> Path:
        """The exported world."""
        return self.folder / "world"

    def settings(self) -> dict[str, Any]:
        """What the run was told.

        Raises:
            RunError: there is no such run, or its settings are not whole.
        """
        path = self.folder / "settings.json"
        try:
            settings = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise RunError(f"{self.folder} is not a training run (no settings.json): see `worldsim train`") from error
        except ValueError as error:
            raise RunError(f"{path} is not whole: move the folder away and train anew") from error
        if not isinstance(settings, dict):
            raise RunError(f"{path} is not a run's settings: move the folder away and train anew")
        return settings

    def begin(self, settings: dict[str, Any], command: str, *, may_differ: tuple[str, ...]) -> None:
        """Write the settings of a new run, or hold those of a resumed one against them.

        Args:
            settings: Plain JSON values.
            command: The command line that makes this run.
            may_differ: Top-level settings that a resumed run may change (where it runs, how long).

        Raises:
            RunError: the folder holds a run with other settings; the message names the first that differs.
        """
        plain = json.loads(json.dumps(settings))
        if self.checkpoint.exists():
            before = self.settings()
            for key in sorted(plain.keys() | before.keys()):
                if key not in may_differ and _given(before.get(key)) != _given(plain.get(key)):
                    raise RunError(
                        f"{self.folder} was trained with other settings ({_difference(key, before, plain)}): "
                        "give another run=<folder>, or the settings it had"
                    )
        write_atomically(self.folder / "settings.json", json.dumps(plain, indent=1).encode())
        write_atomically(self.folder / "README.md", PAGE.format(command=command, folder=self.folder).encode())


def _given(value: Any) -> Any:
    """Settings without those that are None: a run that is older than such a one was not told it."""
    return {k: _given(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _difference(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    old, new = before.get(key), now.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in sorted(old.keys() | new.keys()) if _given(old.get(name)) != _given(new.get(name)))
        return f"{key}.{_difference(inner, old, new)}"
    return f"{key} was {old}, now {new}"
