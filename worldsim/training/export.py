"""From a training run to a world: the averaged weights, held-out starts, and a card that says how it was made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.checkpoint import load_checkpoint, part
from worldsim.data.episodes import Dataset, Episode, EpisodeInfo, read_ends
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.cue import since_rewards
from worldsim.model.designs import SEPARABLE
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.settings import command, from_dict, home
from worldsim.training.ancestry import nowhere
from worldsim.training.run import Run
from worldsim.world import Start, World, WorldConfig, save_world
from worldsim.world_files import bare_model

CARD = """# {name}

A worldsim world: a neural copy of `{source}`, {parameters:.1f} M parameters, bfloat16.

## Made by

    {collect}
    {train}

| | |
|---|---|
| data | {episodes} episodes, {frames} training frames; {held_out} held-out episodes never trained on |
| training | {training} |
| settings | everything else is the default of `worldsim train` at the version below |
| version | {version} |
{parent}"""


def build_world(
    name: str,
    shape: ModelConfig,
    network: WorldModel | DiT,
    dataset: Dataset,
    *,
    steps: int = 2,
    shift: float = 1.0,
    design: str = SEPARABLE,
    episode_starts: int = 8,
    clips: int = 8,
    card: str = "",
    shortest: int | None = None,
) -> World:
    """A world of a model and the data set it was trained on.

    Args:
        name: Short name.
        shape: Of the world.
        network: Of its design; the weights are copied.
        dataset: Gives actions, rules and the starts, which come from held-out episodes (training episodes if none is).
        steps, shift: Denoising steps that the world asks for, and the shift of their noise levels.
        design: See :class:`~worldsim.world.WorldConfig`.
        episode_starts: Starts at an episode's beginning.
        clips: Starts in the midst of play.
        card: Text of ``CARD.md``.
        shortest: See :func:`shortest_life`.

    Raises:
        RunError: see :func:`start_episodes`.
    """
    source = dataset.config["source"]
    config = WorldConfig(
        name=name,
        model=shape,
        fps=float(source["fps"]),
        max_episode_steps=int(source["max_episode_steps"]),
        score_limit=source.get("score_limit"),
        lives=source.get("lives"),
        shortest_life=shortest,
        steps=steps,
        shift=shift,
        design=design,
        source={key: source[key] for key in ("id", "kwargs", "frame_skip", "max_over", "crop") if key in source},
    )
    starts = _starts(dataset, shape, episode_starts, clips)
    return World(config, dataset.actions, copy.deepcopy(network).float(), starts, card)


def shortest_life(dataset: Dataset) -> int | None:
    """Ticks between two losses of a life, at least, in what is learned from; None where no two were recorded."""
    if dataset.config["source"].get("lives") is None:
        return None
    lost = (np.flatnonzero(read_ends(dataset.folder / info.file)) for info in dataset.train)
    return min((int(np.diff(at).min()) for at in lost if len(at) > 1), default=None)


def start_length(shape: ModelConfig) -> int:
    """Frames of a start.

    Until its first reward a game may do something a certain time after it began, which no cue tells (Pong serves).
    """
    return max(shape.window, shape.reward_ages)


def start_episodes(dataset: Dataset, shape: ModelConfig) -> list[EpisodeInfo]:
    """Episodes that are long enough to take starts from: held-out ones, or training episodes if none is.

    Raises:
        RunError: no episode is long enough.
    """
    length = start_length(shape)
    for episodes in (dataset.held_out, dataset.train):
        if chosen := [info for info in episodes if info.steps >= length]:
            return chosen
    raise RunError(
        f"{dataset.folder}: no episode has the {length} frames of a start: record longer ones with "
        f"`worldsim collect`, or lower model.window={shape.window} and model.reward_ages={shape.reward_ages}"
    )


def _starts(dataset: Dataset, shape: ModelConfig, episodes: int, clips: int) -> list[Start]:
    chosen, length = start_episodes(dataset, shape), start_length(shape)
    starts = []
    for i, info in enumerate(chosen[:episodes]):
        episode = dataset.load(info)
        starts.append(_start(f"episode {i}", episode, 0, length))
    for i in range(clips):
        episode = dataset.load(chosen[i % len(chosen)])
        # Spread over the episode; golden-ratio steps keep clips of one episode apart.
        first = int((0.1 + 0.8 * ((i * 0.618034) % 1)) * (len(episode) - length))
        starts.append(_start(f"clip {i}", episode, first, length))
    return starts


def _start(name: str, episode: Episode, first: int, length: int) -> Start:
    last = first + length - 1
    actions = episode.actions[first:last].astype(np.int64)
    return Start(name, episode.frames[first : last + 1], actions, since_rewards(episode.rewards)[last])


def export(run: Run, folder: Path | None = None) -> World:
    """Write a run's averaged weights as a world folder (default: ``world/`` in the run).

    Raises:
        RunError: not a run, or one without a whole checkpoint.
        WorldError: the world cannot be written.
    """
    from worldsim import __version__

    settings = run.settings()
    tensors, facts = load_checkpoint(run.checkpoint)
    shape, design = from_dict(ModelConfig, settings["model"]), settings.get("design", SEPARABLE)
    network = bare_model(shape, design)
    network.load_state_dict(part(tensors, "ema"))
    dataset = Dataset.open(settings["data"])
    source: dict[str, Any] = dataset.config["source"]
    clip = settings["clip"]
    card = CARD.format(
        name=settings["world"],
        source=source["id"],
        parameters=sum(weight.numel() for weight in network.parameters()) / 1e6,
        collect=settings["commands"]["collect"],
        train=nowhere(settings["commands"]["train"]),
        parent=nowhere(f"\n{run.parent.read_text(encoding='utf-8')}") if run.parent.exists() else "",
        episodes=len(dataset.train),
        frames=sum(info.steps + 1 for info in dataset.train),
        held_out=len(dataset.held_out),
        training=_phases(settings, facts["step"], clip),
        version=__version__,
    )
    world = build_world(
        settings["world"],
        shape,
        network,
        dataset,
        steps=settings["sampling_steps"],
        shift=settings.get("sampling_shift", 1.0),
        design=design,
        card=card,
        shortest=shortest_life(dataset),
    )
    save_world(world, folder or run.world)
    return world


def _phases(settings: Mapping[str, Any], step: int, clip: int) -> str:
    """What a run had done when it stood at a step."""
    kept, batch, frames = settings.get("replay", {}), settings["batch"], settings["batch"] * clip
    first = settings.get("moments") or {}
    if settings.get("init") and not first.get("anyway"):
        first = {}
    whole = "of {batch} clips of {clip} frames: {seen} frames seen"
    if settings.get("method", "ode") not in ("ode", "self_forcing") and kept.get("clips"):
        whole = "of {frames} frames of {batch} clips in {every} steps"
    said = []
    for how, what in (
        (first, f"of the decoder alone, of {_parts(first)} each, from single moments"),
        ({**kept, "steps": settings["steps"], "batch": batch, "clip": clip}, whole),
        (kept if "method" not in settings else {}, f"of the decoder alone, of {_parts(kept)} each"),
        (settings.get("outcomes", {}), "of the outcome heads alone"),
    ):
        done = min(step, how.get("steps", 0))
        if done > 0:
            said.append(f"{done} steps " + what.format(**how, seen=done * frames))
        step -= how.get("steps", 0)
    return "; then ".join(said) or "none"


def _parts(kept: Mapping[str, Any]) -> str:
    """What a step on kept frames learns from."""
    side = kept.get("crop")
    return f"{kept.get('frames')} squares of {side}x{side} patches" if side else f"{kept.get('frames')} frames"


@command("export")
def main(settings: dict[str, Any]) -> None:
    """Writes what a run has learned so far, its averaged weights, as a world that can be played."""
    run = Run(Path(settings["run"]).expanduser() if settings["run"] else home() / "runs" / settings["world"])
    folder = Path(settings["folder"]).expanduser() if settings["folder"] else home() / "worlds" / settings["world"]
    export(run, folder)
    print(f"{folder}: play it with `python play.py world={folder}`")
