"""Where a run comes from: the command lines that made it, and the world whose weights it started from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from worldsim.checkpoint import write_atomically
from worldsim.data.collect import CollectConfig
from worldsim.data.episodes import Dataset
from worldsim.envs.source_config import load_source
from worldsim.errors import RunError
from worldsim.model.ages import of_window
from worldsim.model.config import ModelConfig
from worldsim.model.grown import of_history
from worldsim.model.world_model import WorldModel
from worldsim.settings import group_names, overrides, written
from worldsim.training.run import Run
from worldsim.world import World, load_world

_MADE_BY = "## Made by\n"
_OF_ACTIONS = "encoder.action.weight", "encoder.older.weight", "decoder.action.weight"
_PLACE = re.compile(r"(?<==)/[^\s`'\"]+")


def adopt_weights(model: WorldModel, name: str, run: Run, anew: tuple[str, ...] = ()) -> None:
    """Start from a world's weights, and remember in the run how that world was made.

    Its window may be another one: frames that are older than it knew are begun to be looked at as its oldest are. It
    may have seen fewer frames at once (``model.history``, without ``model.extrapolated``) and have been told of the
    last action alone (``model.past_actions``): what is older begins by adding nothing. And it need not have been told
    of rewards (``model.reward_ages``, ``model.recency``), nor have attention in its decoder (``model.decoder_heads``)
    or tell ends as this one does (``model.own_end``): that is begun to be learned. It may be of another game, with
    other actions (``model.num_actions``): what they do is learned anew, and what is a point or an end. What it was told
    of rewards may be left out. Of an encoder that rests, ``model.encoder_layers`` may be fewer: what is left out adds
    nothing.

    Args:
        model: Is given them.
        name: Of the world, or its folder.
        run: Is told of it.
        anew: Ends of the names of weights that stay as they are.

    Raises:
        WorldError: there is no such world.
        RunError: its model has another shape.
    """
    parent = load_world(name)
    may_differ = ["window", *(["age_dim"] if anew else [])]
    if parent.config.model.num_actions != model.config.num_actions:
        may_differ.append("num_actions")
        anew = (*anew, *_OF_ACTIONS, *(name for name, _ in model.named_parameters() if name.startswith("heads.")))
    if (anew or parent.model.encoder.rests) and model.config.encoder_layers < parent.config.model.encoder_layers:
        may_differ.append("encoder_layers")
    if not (parent.config.model.reward_ages and model.config.reward_ages):
        may_differ, anew = [*may_differ, "reward_ages"], (*anew, "decoder.reward.weight")
    if parent.config.model.past_actions == 1 < model.config.past_actions:
        may_differ, anew = [*may_differ, "past_actions"], (*anew, "encoder.older.weight")
    grown = parent.config.model.history < model.config.history and not parent.config.model.extrapolated
    if grown:
        may_differ.append("history")
    if not (parent.config.model.recency and model.config.recency):
        may_differ.append("recency")
        anew = (*anew, *(name for name, _ in model.named_parameters() if name.startswith("heads.recent.")))
    may_differ.append("own_end")
    if bool(parent.config.model.own_end) != bool(model.config.own_end):
        anew = (*anew, *(name for name, _ in model.named_parameters() if name.startswith("heads.end.")))
    if not parent.config.model.decoder_heads:
        may_differ.append("decoder_heads")
        mixing = (name for name, _ in model.named_parameters() if name.startswith("decoder.mixing."))
        anew = (*anew, *mixing)
    check_shape(parent, name, model.config, may_differ)
    weights = of_window(parent.model.state_dict(), model.config.window)
    if grown:
        weights = of_history(weights, parent.config.model, model.config)
    ours = model.state_dict()
    model.load_state_dict({key: ours[key] if key.endswith(anew) else weights[key] for key in ours})
    remember_parents(run, {f"init={name}": parent})


def check_shape(parent: World, name: str, shape: ModelConfig, may_differ: Sequence[str] = ()) -> None:
    """Whether a world can be begun from, by all of its shape but what ``may_differ``.

    Raises:
        RunError: its model has another shape.
    """
    if parent.config.model.shortcut and not shape.shortcut:
        raise RunError(f"init={name} takes shortcuts, which this would unlearn: name the world that it was made from")
    theirs, ours = asdict(parent.config.model), asdict(shape)
    for key in theirs:
        if key not in may_differ and theirs[key] != ours[key]:
            raise RunError(f"init={name} has model.{key}={theirs[key]}, not {ours[key]}: give the same, or no init")


def remember_parents(run: Run, parents: Mapping[str, World]) -> None:
    """Keep in a run how the worlds were made that it began from, by what the command named them with."""
    texts = []
    for said, parent in parents.items():
        made = parent.card.partition(_MADE_BY)[2].partition("\n## ")[0].strip("\n")
        texts.append(f"`{said}` was world `{parent.name}`, fingerprint {parent.fingerprint[:16]}, made by\n\n{made}\n")
    write_atomically(run.parent, "\n".join(texts).encode())


def nowhere(text: str) -> str:
    """A text whose commands name folders as these are called (a run's world with its run), not by where they lay."""

    def called(place: re.Match[str]) -> str:
        parts = PurePath(place[0]).parts
        return "/".join(parts[-2:] if parts[-1] == "world" else parts[-1:])

    return _PLACE.sub(called, text)


def command_of(verb: str, told: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The command line of a run: what differs from the defaults; where it ran is left out.

    Args:
        verb: ``train`` or ``distill``.
        told: All settings of the run.
        usual: All settings of a run that is told nothing but its world, which is what ``configs/<verb>.yaml`` says.
    """
    where = ("data", "run", "device", "threads", "dtype", "compile", "report")
    always = {key: written(told[key]) for key in ("world", "steps", "batch")}
    differs = overrides({key: value for key, value in told.items() if key not in where}, usual)
    return shlex.join(["worldsim", verb, *(f"{key}={value}" for key, value in (always | differs).items())])


def collect_command(dataset: Dataset) -> str:
    """The command line that recorded a data set."""
    source, seed = dataset.config["source"], dataset.config["seed"]
    usual = load_source(source["name"] if source["name"] in group_names("source") else source["id"])
    steps = sum(info.steps for info in dataset.episodes)
    words = [f"source={source['name']}", f"steps={steps}", f"seed={seed}"]
    if (source["height"], source["width"]) != (usual.height, usual.width):
        words.append(f"size=[{source['height']},{source['width']}]")
    told = {key: dataset.config[key] for key in ("held_out", "episode_steps", "behaviour")}
    differs = overrides(told, json.loads(json.dumps(asdict(CollectConfig()))))  # with lists for tuples, as in an index
    words += [f"{key}={value}" for key, value in differs.items()]
    return shlex.join(["worldsim", "collect", *words])
