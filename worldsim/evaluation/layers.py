"""`worldsim probe`: attention along time, features across denoising steps, and what can be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.sampler import levels
from worldsim.errors import WorldError, WorldsimError
from worldsim.evaluation import insight
from worldsim.evaluation.evaluate import source_name
from worldsim.evaluation.pictures import pyplot, require_plots
from worldsim.evaluation.report import as_json, table, write
from worldsim.evaluation.transformers import specimen
from worldsim.machine import commit, machine, physical_cores, short
from worldsim.settings import command, command_line, from_dict, home
from worldsim.world import load_world

_FRAME = -1  # of a clip, whose features are drawn: the last, after the longest memory


@dataclass(frozen=True)
class ProbeConfig:
    """Everything `worldsim probe` is told; see configs/probe.yaml.

    Raises:
        WorldsimError: a setting is out of range.
    """

    world: str = "pong"
    data: Path | None = None
    out: Path | None = None
    clips: int = 16
    steps: int = 4
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = "float32"
    threads: int | None = None

    def __post_init__(self) -> None:
        levels(self.steps)
        if self.clips < 1 or self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise WorldsimError("clips must be 1 or more, seed 0 or more, threads 1 or more or null")


def probe(config: ProbeConfig, out: Path) -> dict[str, Any]:
    """Measure a world's layers; writes ``report.json``, ``report.md`` and pictures into ``out``.

    Raises:
        WorldsimError: the world and the recording cannot be used or do not belong together.
        MissingExtra: matplotlib is not installed.
    """
    require_plots()
    world = load_world(config.world)
    dataset = Dataset.open(config.data or home() / "data" / source_name(world))
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    model = specimen(world, device, dtype)
    c = world.config.model
    if dataset.actions != world.actions or tuple(dataset.config["source"][k] for k in ("height", "width")) != (
        c.height,
        c.width,
    ):
        raise WorldError(f"world {world.name!r} was not learned from recordings such as {dataset.folder}: name data=")
    store = ClipStore(dataset, dataset.held_out, model.length)
    seen = insight.looks(model, store, config.clips, config.seed)
    features = [
        insight.features_by_step(model, store, config.steps, place, config.seed) for place in range(config.clips)
    ]
    alike = [
        np.mean(np.stack([insight.similarity(clip[block]) for clip in features]), 0)
        for block in range(len(features[0]))
    ]
    report: dict[str, Any] = {
        "about": {
            "world": world.name,
            "design": world.config.design,
            "attention_block": model.attention_block,
            "denoising_block": model.denoising_block,
            "fingerprint": world.fingerprint,
            "clips": config.clips,
            "steps": len(features[0][0]),
            "levels": levels(len(features[0][0]), model.shift)[:-1],
            "ages": list(model.ages),
            "dtype": str(dtype).removeprefix("torch."),
            "seed": config.seed,
            "command": command_line(),
            "commit": commit(),
            "machine": machine(),
        },
        "attention_by_age": seen.by_age.tolist(),
        "frames_looked_at": seen.frames.tolist(),
        "similarity": [matrix.tolist() for matrix in alike],
        "cuts": insight.cuts(model, store, config.clips, config.steps, config.seed),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldsimError(f"cannot make {out} ({error.strerror}): name another folder with out=") from error
    write(out / "report.json", as_json(report))
    write(out / "report.md", as_markdown(report))
    draw(report, features[0], out)
    return report


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as tables."""
    about, by_age = report["about"], np.asarray(report["attention_by_age"])
    age = np.array(about["ages"])
    past, ages = by_age[..., age > 0].sum(-1), (by_age * age).sum(-1)
    heads = [
        [f"{layer + 1}.{head + 1}", f"{past[layer, head]:.2f}", f"{ages[layer, head]:.1f}", f"{frames:.1f}"]
        for layer, looked_at in enumerate(report["frames_looked_at"])
        for head, frames in enumerate(looked_at)
    ]
    steps = range(1, about["steps"] + 1)
    alike = [
        [block + 1, *(f"{matrix[0][step - 1]:.3f}" for step in steps), _nearest_steps(matrix)]
        for block, matrix in enumerate(report["similarity"])
    ]
    whole = report["cuts"][0]
    cuts = [
        [row["what"], *(f"{row[name]:.2f} ({row[name] / whole[name]:.2f}x)" for name in ("moved", "all"))]
        for row in report["cuts"]
    ]
    return "\n".join(
        [
            f"`{about['command']}`",
            "",
            f"Weights {about['fingerprint'][:12]}, {about['clips']} held-out clips, {about['steps']} denoising steps, "
            f"{about['dtype']}, seed {about['seed']}, commit {short(about['commit'])}.",
            "",
            f"Temporal attention, by {about['attention_block']} and head: its share on past frames, the mean age "
            f"looked at, and how many frames a token looks at (the exponential of the entropy). {_seen(about['ages'])}",
            "",
            *table(["head", "past", "age, ticks", "frames"], heads),
            "",
            f"Cosine of a {about['denoising_block']}'s features at each denoising step with those at the first, and "
            "the least between two steps that follow each other:",
            "",
            *table(["block", *(f"step {step}" for step in steps), "least"], alike),
            "",
            "Error one frame ahead with something cut, in grey levels, near what has just moved and everywhere:",
            "",
            *table(["cut", "moved", "all"], cuts),
            "",
        ]
    )


def _seen(ages: Sequence[int]) -> str:
    first, count = ages[0], len(ages)
    if first < 0:
        return f"Frames are seen up to {ages[-1]} ticks before and, of those made together, {-first} after."
    return f"All {count} frames alike would be {1 - 1 / count:.2f}, {(count - 1) / 2:.1f} and {count}."


def _nearest_steps(matrix: Sequence[Sequence[float]]) -> str:
    following = [matrix[i][i + 1] for i in range(len(matrix) - 1)]
    return f"{min(following):.3f}" if following else "-"


def draw(report: Mapping[str, Any], features: Sequence[Sequence[Any]], out: Path) -> None:
    """Heat maps of attention and of similarity, and one frame's features as colours."""
    plt, about = pyplot(), report["about"]
    by_age = np.asarray(report["attention_by_age"])
    (layers, heads, count), ages = by_age.shape, about["ages"]
    made, axes = plt.subplots(1, layers, figsize=(3.2 * layers, 3), sharey=True, layout="constrained", squeeze=False)
    for layer, axis in enumerate(axes[0]):
        image = axis.imshow(by_age[layer], aspect="auto", vmin=0, vmax=by_age.max(), cmap="viridis")
        axis.set(title=f"{about['attention_block']} {layer + 1}", yticks=range(heads))
        axis.set_xlabel("age of the frame looked at, ticks")
        axis.set_yticklabels([f"head {n + 1}" for n in range(heads)])
        ticks = range(0, count, max(1, count // 5))
        axis.set_xticks(ticks, [str(ages[tick]) for tick in ticks])
    made.colorbar(image, ax=axes, label="share of attention")
    made.savefig(out / "attention.png", dpi=110)
    plt.close(made)

    blocks, steps = len(report["similarity"]), report["about"]["steps"]
    least = float(np.min(report["similarity"]))
    made, axes = plt.subplots(1, blocks, figsize=(3.2 * blocks, 3), layout="constrained", squeeze=False)
    for block, axis in enumerate(axes[0]):
        image = axis.imshow(report["similarity"][block], vmin=least, vmax=1, cmap="viridis")
        axis.set(title=f"{about['denoising_block']} {block + 1}", xticks=range(steps), yticks=range(steps))
        axis.set_xlabel("denoising step")
        axis.set_xticklabels(range(1, steps + 1))
        axis.set_yticklabels(range(1, steps + 1))
    made.colorbar(image, ax=axes, label="cosine of features")
    made.savefig(out / "similarity.png", dpi=110)
    plt.close(made)

    made, axes = plt.subplots(blocks, steps, figsize=(2 * steps, 2 * blocks), layout="constrained", squeeze=False)
    for block, row in enumerate(axes):
        for step, (axis, picture) in enumerate(zip(row, insight.principal(features[block], _FRAME), strict=True)):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if step == 0:
                axis.set_ylabel(f"block {block + 1}")
            if block == 0:
                axis.set_title(f"step {step + 1}", fontsize=9)
    made.suptitle("three principal components of one frame's features, over all steps", fontsize=9)
    made.savefig(out / "features.png", dpi=110)
    plt.close(made)


@command("probe")
def main(settings: dict[str, Any]) -> None:
    """Measures what the layers of a world do: report.json, report.md and pictures."""
    import torch

    config = from_dict(ProbeConfig, settings)
    out = config.out or home() / "probed" / Path(config.world).name
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or physical_cores())
    try:
        report = probe(config, out)
    finally:
        torch.set_num_threads(threads)
    print(as_markdown(report))
    print(f"{out / 'report.md'}: the same; attention.png, similarity.png and features.png beside it")
