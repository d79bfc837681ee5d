"""Rows of a study that are trained for it: one run of `worldsim train` each, in a process of its own."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.data.episodes import Dataset
from worldsim.errors import WorldsimError
from worldsim.evaluation.report import write
from worldsim.model.designs import SEPARABLE, Design
from worldsim.schema import from_dict, nearest
from worldsim.settings import defaults, home, overrides
from worldsim.training.pretrain_config import PretrainConfig, model_of
from worldsim.training.run import Run

DONE = "trained.json"  # in a run's folder: the words of the command that was trained to its end


def train_rows(
    names: Sequence[str] | str,
    recipes: Mapping[str, Mapping[str, Any]],
    alike: Mapping[str, Any],
    folder: Path,
) -> list[str]:
    """Train rows that are not trained yet, one after another; an interrupted one goes on where it was.

    All of them are looked at before the first step of any: hours later is too late for a misspelt key.

    Args:
        names: Of recipes, or ``"all"``.
        recipes: What each row's run is told besides, as :class:`~worldsim.training.pretrain_config.PretrainConfig`.
        alike: What all are told besides the defaults of `worldsim train`; ``world`` says whose play they learn from.
        folder: Of the runs, one folder each.

    Returns:
        The folders of their worlds, in order.

    Raises:
        WorldsimError: no such recipe, a key or value that `worldsim train` does not take, no recording, or a training
            that failed, which has said why.
        KeyboardInterrupt: one was asked to stop, and has saved.
    """
    chosen = tuple(recipes) if names == "all" else (names,) if isinstance(names, str) else names
    asked: dict[str, list[str]] = {}
    for name in chosen:
        if name not in recipes:
            raise WorldsimError(f"unknown row '{name}'{nearest(name, tuple(recipes))}: there is {', '.join(recipes)}")
        asked[name] = _words(name, merged(alike, recipes[name]), folder / name)
    for number, (name, words) in enumerate(asked.items()):
        if not _is_trained(folder / name, words):
            print(f"row {number + 1} of {len(asked)}, {name}: {shlex.join(['worldsim', 'train', *words])}", flush=True)
            _train(name, words)
            write(folder / name / DONE, json.dumps(words))  # last: a run without it is gone on with
    return [str(Run(folder / name).world) for name in asked]


def merged(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with others in their place; where there was no mapping, a mapping is a value like any."""
    result = dict(settings)
    for key, value in more.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def _words(name: str, told: Mapping[str, Any], run: Path) -> list[str]:
    usual = defaults("train")
    try:
        config = from_dict(PretrainConfig, merged(usual, told))
        if config.design != SEPARABLE:
            Design.parse(config.design)
        model_of(config, Dataset.open(config.data or home() / "data" / config.world))
    except WorldsimError as error:
        raise WorldsimError(f"row '{name}': {error}") from error
    return [f"{key}={value}" for key, value in overrides({**told, "run": str(run)}, usual).items()]


def _is_trained(run: Path, words: Sequence[str]) -> bool:
    try:
        return bool(json.loads((run / DONE).read_text(encoding="utf-8")) == list(words)) and Run(run).world.is_dir()
    except (OSError, ValueError):
        return False


def _train(name: str, words: Sequence[str]) -> None:
    process = subprocess.Popen([sys.executable, "-m", "worldsim", "train", *words], stdin=subprocess.DEVNULL)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    except KeyboardInterrupt:  # which it has heard too; it saves now
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if code in (130, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
    if code:
        raise WorldsimError(f"row '{name}' was not trained, as said above: mend it, and run this again")
