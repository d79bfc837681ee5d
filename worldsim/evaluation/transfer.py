"""`worldsim transfer`: the returns of several players in the dream and in the real game, and how well they agree.

A dream is good to learn in if what scores more there scores more in the real game (the transfer column of a world
model's report). The measure is Spearman's rank correlation over players of very different skill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.agents.episodes import EpisodesConfig, Play, in_dream, in_real
from worldsim.agents.evaluate import summary
from worldsim.agents.players import NAMED
from worldsim.agents.policy import Policy, load_policy
from worldsim.errors import WorldsimError
from worldsim.evaluation.pictures import DREAM, pyplot
from worldsim.evaluation.report import as_json, table, write
from worldsim.machine import commit, machine, short
from worldsim.settings import command, command_line, from_dict, home
from worldsim.world import load_world

FEWEST = 3  # players whose ranks can be compared


@dataclass(frozen=True)
class TransferConfig(EpisodesConfig):
    """Everything `worldsim transfer` is told; see configs/transfer.yaml."""

    policies: tuple[str, ...] = ()


def ranks(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    given = np.asarray(values, np.float64)
    below = (given[None] < given[:, None]).sum(1)
    return np.asarray(below + ((given[None] == given[:, None]).sum(1) - 1) / 2)


def spearman(a: Sequence[float] | NDArray[np.float64], b: Sequence[float] | NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties by mean ranks; NaN where one side is all equal."""
    x, y = ranks(a), ranks(b)
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def interval(rows: Mapping[str, Mapping[str, Any]], seed: int, resamples: int = 2000) -> list[float]:
    """The middle 95 % of :func:`spearman` of the players' means over bootstrap samples of their episodes."""
    rng = np.random.default_rng(seed)

    def means(place: str) -> NDArray[np.float64]:  # [resamples, players]
        returns = [np.asarray(row[place]["returns"]) for row in rows.values()]
        return np.stack([rng.choice(one, (resamples, len(one))).mean(1) for one in returns], 1)

    found = [spearman(a, b) for a, b in zip(means("dream"), means("real"), strict=True)]
    low, high = np.nanpercentile(found, (2.5, 97.5)) if not np.isnan(found).all() else (np.nan, np.nan)
    return [float(low), float(high)]


def find_players(wanted: Sequence[str]) -> dict[str, Policy | str]:
    """Players by the names that a report gives them.

    Args:
        wanted: Names of :data:`~worldsim.agents.players.NAMED`, policy files, and folders of them.

    Raises:
        WorldsimError: nothing of the kind, or too few to compare.
    """
    found: dict[str, Policy | str] = {}
    for one in wanted:
        path = Path(one).expanduser()
        if one in NAMED:
            found[one] = one
            continue
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise WorldsimError(f"no policies in {path}: name a file of one, or {', '.join(NAMED)}")
        for file in files:
            found[f"{file.parent.name}/{file.stem}"] = load_policy(file)[0]
    if len(found) < FEWEST:
        raise WorldsimError(f"policies= names {len(found)}: give {FEWEST} or more, such as random or a policy's file")
    return found


def measure(config: TransferConfig) -> dict[str, Any]:
    """Every player in both games; a report of plain values."""
    players = find_players(config.policies)
    play = Play(load_world(config.world or "pong"), config)
    rows: dict[str, dict[str, Any]] = {}
    for name, who in players.items():
        games = {"dream": in_dream, "real": in_real}
        rows[name] = {place: summary(play_in(play, who), config.seed) for place, play_in in games.items()}
        means = " ".join(f"{place} {rows[name][place]['mean']:+.2f}" for place in ("dream", "real"))
        print(f"{name}: {means}", flush=True)
    dreamed, real = ([row[place]["mean"] for row in rows.values()] for place in ("dream", "real"))
    return {
        "about": {
            "world": play.world.name,
            "fingerprint": play.world.fingerprint,
            "source": play.source.id,
            "seed": config.seed,
            "max_steps": config.max_steps,
            "dreams": {
                "episodes": config.dreams or config.episodes,
                "seconds": config.dream_seconds,
                "starts": config.starts,
                "whole": config.starts == "episode" and config.dream_seconds is None,
            },
            "command": command_line(),
            "commit": commit(),
            "machine": machine(),
        },
        "players": rows,
        "spearman": spearman(dreamed, real),
        "spearman_interval_95": interval(rows, config.seed),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    about, box = report["about"], report["about"]["machine"]
    dreams = about["dreams"]
    rows = [
        [
            name,
            *(
                f"{told[place]['mean']:.2f} [{told[place]['mean_interval_95'][0]:.2f}, "
                f"{told[place]['mean_interval_95'][1]:.2f}]"
                for place in ("dream", "real")
            ),
            told["dream"]["mean"] - told["real"]["mean"] if dreams["whole"] else "",
            told["real"]["episodes"],
        ]
        for name, told in report["players"].items()
    ]
    cut = f", cut off after {about['max_steps']} decisions" if about["max_steps"] else ""
    dreamt, (low, high) = "", report["spearman_interval_95"]
    if not dreams["whole"]:
        length = f"{dreams['seconds']:g} seconds" if dreams["seconds"] else "whole episodes"
        where = "moments of recorded play" if dreams["starts"] == "recorded" else "the world's beginnings"
        dreamt = f"; in the dream of {dreams['episodes']} times {length} from {where}"
    return "\n".join(
        [
            f"# {about['world']} and {about['source']}: what scores in one, does it in the other?",
            "",
            f"`{about['command']}`",
            "",
            f"Weights {about['fingerprint'][:12]}, seed {about['seed']}, commit {short(about['commit'])}; "
            f"{box['cpu']}, torch {box['torch']}. Returns of whole episodes{cut}{dreamt}; 95 % bootstrap intervals of "
            "the mean.",
            "",
            f"Spearman's rank correlation of the means over {len(rows)} players: {report['spearman']:.3f} (95 % of "
            f"bootstrap samples of the episodes: {low:.3f} to {high:.3f}).",
            "",
            *table(["player", "return in the dream", "in the real game", "difference", "real episodes"], rows),
            "",
        ]
    )


def draw(report: dict[str, Any], path: Path) -> None:
    """The scatter of means with their intervals; whole episodes agree where they lie on the diagonal."""
    plt = pyplot()
    picture, axis = plt.subplots(figsize=(5.4, 5), layout="constrained")
    for name, told in report["players"].items():
        x, y = told["real"], told["dream"]
        spread = [[[at["mean"] - at["mean_interval_95"][0]], [at["mean_interval_95"][1] - at["mean"]]] for at in (x, y)]
        axis.errorbar(x["mean"], y["mean"], xerr=spread[0], yerr=spread[1], fmt="o", color=DREAM, ms=5, lw=1)
        axis.annotate(name, (x["mean"], y["mean"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    if report["about"]["dreams"]["whole"]:
        told = [row[place]["mean_interval_95"] for row in report["players"].values() for place in ("dream", "real")]
        pad = 0.06 * max(np.ptp(told), 1.0)
        ends = np.min(told) - pad, np.max(told) + pad
        axis.plot(ends, ends, color="0.8", lw=1, zorder=0)
        axis.set(xlim=ends, ylim=ends)
        axis.set_aspect("equal")
    axis.set(xlabel="return in the real game", ylabel="return in the dream")
    axis.set_title(f"{report['about']['world']}: Spearman {report['spearman']:.2f}", fontsize=10)
    picture.savefig(path, dpi=120)
    plt.close(picture)


@command("transfer")
def main(settings: dict[str, Any]) -> None:
    """Plays the dream and the real game with the same players: transfer.json, transfer.md and transfer.png."""
    config = from_dict(TransferConfig, settings)
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    pyplot()  # missing it is told before the work
    out = config.out or home() / "evaluations" / Path(config.world or "pong").name
    report = measure(config)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldsimError(f"cannot make {out} ({error.strerror}): name another folder with out=") from error
    write(out / "transfer.json", as_json(report))
    write(out / "transfer.md", as_markdown(report))
    draw(report, out / "transfer.png")
    print(f"Spearman {report['spearman']:.3f} over {len(report['players'])} players; {out / 'transfer.md'}")
