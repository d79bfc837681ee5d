"""Rows of a study as they are kept beside its page: what each is worth, and what is needed to time its design again.

A study of many designs takes days, its worlds many megabytes. What a world is worth holds wherever it was found; how
long its tick takes does not, so that all rows are timed in one run, and those whose worlds are gone with other weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldsim.actions import ActionTable
from worldsim.errors import WorldsimError
from worldsim.evaluation.report import as_json, write
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT, wake
from worldsim.model.world_model import WorldModel
from worldsim.schema import from_dict
from worldsim.world import World, WorldConfig, new_world, save_world

FORMAT, VERSION = "worldsim-study", 1
FLOAT32 = 4  # bytes

_ABOUT = (
    "fingerprint", "design", "parameters", "source", "steps", "dtype", "backend", "seed", "quick", "threads", "commit",
    "machine",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What is known of one world of a study, wherever that world is now.

    Attributes:
        name: Of the row.
        how: What made it and in how many steps, as its run says; empty where there is no run.
        hours: That its training took; None where there is no run.
        command: That trained it; empty where there is no run.
        config: The world's.
        actions: The world's, as JSON.
        about: Of its report: with what, where and when it was judged.
        bars: Of its report.
        psnr: After a second, dB; None where that was not asked.
        delays: ``delay_first`` and ``delay_most`` of :class:`~worldsim.benchmark.delay.Delay`, of the trained weights.
    """

    name: str
    how: str
    hours: float | None
    command: str
    config: WorldConfig
    actions: dict[str, Any]
    about: dict[str, Any]
    bars: list[dict[str, Any]]
    psnr: float | None = None
    delays: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, how: str, hours: float | None, command: str, world: World, report: Mapping[str, Any]
    ) -> Result:
        """From a world and its report, see :func:`~worldsim.evaluation.evaluate.evaluate`."""
        at = report.get("fidelity", {}).get("at", {}).get("1")
        about = {key: report["about"][key] for key in _ABOUT if key in report["about"]}
        psnr = None if at is None else float(at["psnr"])
        return cls(name, how, hours, command, world.config, world.actions.to_json(), about, report["bars"], psnr)

    @property
    def design(self) -> str:
        """Its name."""
        return self.config.design

    @property
    def kind(self) -> str:
        """Its design's name, and whether it looks at two scales."""
        return f"{self.design}, two scales" if self.config.model.multiscale else self.design

    @property
    def delay(self) -> int:
        """Ticks from an action to its frame."""
        return 1 if self.design == SEPARABLE else Design.parse(self.design).delay

    @property
    def kept(self) -> int:
        """Bytes of keys and values that are kept of a frame; the frame itself where nothing else is."""
        c = self.config.model
        if self.design == SEPARABLE or self.design.startswith("dit"):
            return 2 * c.encoder_layers * c.tokens * c.dim * FLOAT32
        return c.tokens * c.patch_dim * FLOAT32

    def figures(self) -> dict[str, float | None]:
        """What it is worth, by what is asked; None for what was looked for and is not there."""
        return {
            f"{bar['part']}: {bar['text']}": float("inf") if bar["value"] == "missing" else bar["value"]
            for bar in self.bars
            if bar["value"] is not None
        }


def bare(config: WorldConfig, actions: Mapping[str, Any], folder: Path, seed: int = 0) -> Path:
    """Save a world of such sizes with random weights, which costs what a trained one does; returns its folder."""
    like = new_world(config.name, config.model, ActionTable.from_json(actions), seed=seed)
    network: WorldModel | DiT = like.model
    if config.design != SEPARABLE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Design.parse(config.design).make(config.model).requires_grad_(False)
    wake(network, seed)
    return save_world(World(config, like.actions, network, like.starts), folder)


def read(path: Path, asked: Mapping[str, Any]) -> list[Result]:
    """Rows that a study before kept; none where there is no file.

    Args:
        path: Of the file.
        asked: How rows are judged now.

    Raises:
        WorldsimError: not such a file, or its rows were judged otherwise.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise WorldsimError(f"{path} cannot be read ({error}): restore it, or remove it to begin anew") from error
    if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise WorldsimError(f"{path} does not hold the rows of a study, version {VERSION}: remove it to begin anew")
    for key in asked.keys() | found["asked"].keys():
        was, now = found["asked"].get(key), asked.get(key)
        if was != now:
            raise WorldsimError(
                f"rows in {path} were judged with {key}={was}, and are to be with {now} now: give the same, or another "
                "page with into="
            )
    return [from_dict(Result, row, str(path)) for row in found["rows"]]


def keep(path: Path, results: Sequence[Result], asked: Mapping[str, Any]) -> None:
    """Write rows for studies to come."""
    told = {"format": FORMAT, "version": VERSION, "asked": dict(asked), "rows": [asdict(result) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, as_json(told))


def joined(before: Sequence[Result], now: Sequence[Result], order: Sequence[str]) -> list[Result]:
    """Rows of both, of one name the newer one, as ``order`` has them and others after these."""
    rows = {result.name: result for result in (*before, *now)}
    places = {name: place for place, name in enumerate(order)}
    return sorted(rows.values(), key=lambda result: places.get(result.name, len(places)))
