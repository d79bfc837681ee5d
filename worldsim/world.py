"""A world: the trained copy of one game, in memory and as a folder of data of which nothing is ever run."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim import world_files
from worldsim.actions import ActionTable
from worldsim.errors import MissingExtra, StartError, WorldError, WorldsimError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.schema import from_dict, nearest
from worldsim.settings import home
from worldsim.start import Start

__all__ = [
    "Start",
    "World",
    "WorldConfig",
    "find_world",
    "list_worlds",
    "load_world",
    "new_world",
    "save_world",
]


@dataclass(frozen=True)
class WorldConfig:
    """What a world is, beside its weights.

    Attributes:
        name: Short name.
        model: Shape of the networks.
        fps: Decisions per second.
        max_episode_steps: Ticks after which an episode is truncated.
        score_limit: An episode ends when a side has this many points, and not otherwise; ``None`` for a game without.
        lives: An episode ends when so many are lost, and not otherwise; ``None`` for a game without.
        shortest_life: Ticks between two losses of a life in the recording, at least; a loss that is told sooner does
            not count. ``None``: nobody knows, or a game without lives.
        steps: Denoising steps per frame, 1 to 64.
        shift: Of their noise levels in play, above 0; see :func:`~worldsim.engine.sampler.levels`.
        context_level: Context-noise bucket that the encoder is told of when it runs; 0 is clean.
        source: Where it was learned from; free-form, for people.
        design: ``scd``, which is played; or another one by its name (:class:`~worldsim.model.designs.Design`), which is
            there to be judged beside it.

    Raises:
        WorldError: a number out of range.
        WorldsimError: a design that there is not.
    """

    name: str
    model: ModelConfig
    fps: float = 30.0
    max_episode_steps: int = 27000
    score_limit: int | None = None
    lives: int | None = None
    shortest_life: int | None = None
    steps: int = 2
    shift: float = 1.0
    context_level: int = 0
    source: dict[str, Any] = field(default_factory=dict)
    design: str = SEPARABLE

    def __post_init__(self) -> None:
        if self.design != SEPARABLE:
            Design.parse(self.design)
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise WorldError(f"fps must be a positive number, not {self.fps}")
        if self.max_episode_steps < 1 or not 1 <= self.steps <= 64:
            raise WorldError("max_episode_steps must be at least 1 and steps from 1 to 64")
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise WorldError(f"shift must be a positive number, not {self.shift}")
        if self.score_limit is not None and self.score_limit < 1:
            raise WorldError(f"score_limit must be at least 1 or none, not {self.score_limit}")
        if self.lives is not None and (self.lives < 1 or self.score_limit is not None):
            raise WorldError(f"lives must be at least 1, and go without a score_limit, or none, not {self.lives}")
        if self.shortest_life is not None and (self.lives is None or self.shortest_life < 1):
            raise WorldError(f"shortest_life must be at least 1, of a world with lives, not {self.shortest_life}")
        if not 0 <= self.context_level < self.model.context_levels:
            raise WorldError(
                f"context_level must be from 0 to {self.model.context_levels - 1}, not {self.context_level}"
            )


class World:
    """A trained (or fresh) copy of one game.

    Args:
        config: See :class:`WorldConfig`.
        actions: As many as ``config.model.num_actions``.
        network: Of the config's design. Not copied, and set to eval: its weights are shared by all sessions and must
            not change while one runs.
        starts: At least one; all of one length if it is to be saved.
        card: Text of ``CARD.md``.

    Raises:
        WorldError: the parts do not fit each other.
        StartError: a start does not fit the model.
    """

    def __init__(
        self,
        config: WorldConfig,
        actions: ActionTable,
        network: WorldModel | DiT,
        starts: Sequence[Start],
        card: str = "",
    ) -> None:
        own = isinstance(network, WorldModel)
        fits = network.config == config.model if own else network.config.num_actions == config.model.num_actions
        if len(actions) != config.model.num_actions or not fits or own != (config.design == SEPARABLE):
            raise WorldError(f"world {config.name!r}: config, action table and model do not belong together")
        if not starts or len({start.name for start in starts}) != len(starts):
            raise WorldError(f"world {config.name!r} needs starts, each with a name of its own")
        self.config, self.actions, self.card = config, actions, card
        self.network = network.eval()
        self.starts = tuple(start.check(config.model) for start in starts)
        self._placed: dict[tuple[torch.device, torch.dtype], WorldModel | DiT] = {}

    @property
    def name(self) -> str:
        """Short name."""
        return self.config.name

    @property
    def model(self) -> WorldModel:
        """The network of a world that is played.

        Raises:
            WorldError: the world is of another design.
        """
        return self._separable(self.network)

    @property
    def episode_starts(self) -> tuple[Start, ...]:
        """Starts at an episode's beginning (named ``episode...``); all starts if there is none."""
        return tuple(start for start in self.starts if start.name.startswith("episode")) or self.starts

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the model's shape and weights and a sampler's shift: equal for worlds that compute the same."""
        # What a shape leaves out is left out: worlds of before an option was there keep their fingerprint.
        shape = {name: value for name, value in asdict(self.config.model).items() if value is not None}
        if shape["past_actions"] == 1:
            del shape["past_actions"]
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
        if self.config.design != SEPARABLE:
            digest.update(self.config.design.encode())
        if self.config.shift != 1:
            digest.update(f"shift={self.config.shift!r}".encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def shifted(self, shift: float | None) -> World:
        """The same world with the noise levels of its sampler elsewhere, see :func:`~worldsim.engine.sampler.levels`.

        Args:
            shift: Of the levels; None: its own.

        Raises:
            WorldError: not a positive number.
        """
        if shift is None or shift == self.config.shift:
            return self
        return World(replace(self.config, shift=shift), self.actions, self.network, self.starts, self.card)

    def find_start(self, start: Start | str | int) -> Start:
        """A start by name or number, or one of one's own, checked.

        Raises:
            StartError: no such start, or one that does not fit this world.
        """
        if isinstance(start, Start):
            return start.check(self.config.model)
        if isinstance(start, int | np.integer) and not isinstance(start, bool):
            if not 0 <= start < len(self.starts):
                raise StartError(f"start {start} is out of range: {self.name!r} has 0 to {len(self.starts) - 1}")
            return self.starts[start]
        names = tuple(one.name for one in self.starts)
        if start not in names:
            hint = nearest(str(start), names)
            raise StartError(f"unknown start {start!r}{hint}: {self.name!r} has 'episode', {', '.join(names)}")
        return self.starts[names.index(start)]

    def model_on(self, device: torch.device, dtype: torch.dtype) -> WorldModel:
        """:meth:`network_on` of a world that is played.

        Raises:
            WorldError: the world is of another design.
        """
        return self._separable(self.network_on(device, dtype))

    def network_on(self, device: torch.device, dtype: torch.dtype) -> WorldModel | DiT:
        """The network on a device in a number format: itself if it is there already, else one shared copy."""
        weight = next(self.network.parameters())
        if (device, dtype) == (weight.device, weight.dtype):
            return self.network
        if (device, dtype) not in self._placed:
            copy = world_files.bare_model(self.config.model, self.config.design)
            copy.load_state_dict(self.network.state_dict())
            self._placed[device, dtype] = copy.to(device, dtype).eval().requires_grad_(False)
        return self._placed[device, dtype]

    def _separable(self, network: WorldModel | DiT) -> WorldModel:
        if isinstance(network, WorldModel):
            return network
        raise WorldError(
            f"world {self.name!r} is of design {self.config.design}, for evaluate and benchmark alone: name a world "
            "made by `worldsim train`"
        )


def new_world(
    name: str,
    model: ModelConfig,
    actions: ActionTable,
    *,
    seed: int = 0,
    starts: Sequence[Start] = (),
    **settings: Any,
) -> World:
    """An untrained world: weights drawn from ``seed``; without ``starts``, one grey frame.

    Args:
        settings: Further fields of :class:`WorldConfig`.
    """
    grey = Start("episode", np.full((1, model.height, model.width, 3), 127, np.uint8), np.zeros(0, np.int64))
    bare = world_files.bare_model(model)
    assert isinstance(bare, WorldModel)
    fresh = init_weights(bare, seed)
    return World(WorldConfig(name, model, **settings), actions, fresh, starts or (grey,))


def list_worlds() -> tuple[str, ...]:
    """Names of the worlds in the box and in ``worlds/`` of the home folder, sorted."""
    return tuple(sorted({path.parent.name for shelf in _shelves() for path in shelf.glob(f"*/{world_files.CONFIG}")}))


def load_world(name_or_path: str | Path) -> World:
    """A world by name, by folder, or from the hub as ``hf:owner/name``. The same folder gives the same
    object.

    Raises:
        WorldError: no such world, or a folder with a missing, truncated, foreign or mismatched file.
        MissingExtra: ``hf:`` without huggingface_hub.
    """
    folder = find_world(name_or_path)
    paths = [folder / name for name in world_files.FILES]
    stamps = [(path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path.is_file()]
    return _load(folder.resolve(), tuple(stamps))


def find_world(name_or_path: str | Path) -> Path:
    """The folder of a world; see :func:`load_world`."""
    text = str(name_or_path)
    if text.startswith("hf:"):
        return _download(text.removeprefix("hf:"))
    for shelf in _shelves():
        if text and os.sep not in text and (shelf / text / world_files.CONFIG).is_file():
            return shelf / text
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return folder
    names = list_worlds()
    known = f"there is {', '.join(names)}" if names else "none is installed"
    raise WorldError(f"unknown world {text!r}{nearest(text, names)}: {known}; or name a folder, or hf:owner/name")


def save_world(world: World, folder: str | Path) -> Path:
    """Write a world; whoever reads the folder after a failure finds the old one whole.

    Weights are kept as bfloat16. Files of the folder that are not a world's stay.

    Raises:
        WorldError: the disk is full or not writable, a NaN in the weights, or starts of different lengths.
            The old world is intact.
    """
    config = asdict(world.config) | {"actions": world.actions.to_json()}
    return world_files.write_folder(Path(folder).expanduser(), config, world.network, world.starts, world.card)


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple[Any, ...]) -> World:
    values = world_files.read_config(folder)
    where = folder / world_files.CONFIG
    try:
        actions = ActionTable.from_json(values.pop("actions", {}))
        config = from_dict(WorldConfig, values)
        if len(actions) != config.model.num_actions:
            raise ValueError(f"{len(actions)} actions for a model of {config.model.num_actions}")
    except (WorldsimError, ValueError) as error:
        raise WorldError(f"{where}: {error}; restore the file, or save the world again") from error
    network = world_files.read_weights(folder, config.model, config.design)
    return World(config, actions, network, world_files.read_starts(folder, config.model), world_files.read_card(folder))


def _shelves() -> tuple[Path, ...]:
    import worldsim.assets

    return Path(worldsim.assets.__path__[0]) / "worlds", home() / "worlds"


def _download(repository: str) -> Path:
    name, _, revision = repository.partition("@")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise WorldError(
            f"cannot read 'hf:{repository}': a world on the hub is hf:owner/name or hf:owner/name@revision"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub") from error
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(world_files.FILES)))
    except Exception as error:  # the hub's client raises its own and its transport's errors: no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorldError(f"cannot download hf:{repository}: {reason}") from error
