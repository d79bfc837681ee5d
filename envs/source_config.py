"""What a source is made of: a Gymnasium id and how its screen and actions become frames and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from worldsim.actions import ActionTable
from worldsim.envs.source_state import READERS
from worldsim.errors import SourceError
from worldsim.settings import from_dict, group_names, load_group

# How the ids begin that need an extra, for those that have no config here.
ID_EXTRAS = {"ALE/": "atari", "Vizdoom": "doom", "CarRacing": "box2d", "LunarLander": "box2d"}


@dataclass(frozen=True)
class SourceConfig:
    """How a Gymnasium environment becomes a source of 64x64-like frames and few actions.

    Attributes:
        name: short name, also of the data set's folder.
        id: Gymnasium id.
        kwargs: arguments for ``gymnasium.make``.
        frame_skip: raw frames one decision lasts.
        max_over: elementwise maximum over the last so many raw frames, for games that flicker; 1 for none.
        warm_up: raw frames of no-op that a reset plays unseen, for games that boot with a flash.
        crop: (top, bottom, left, right) in raw pixels before the resize, or None.
        height, width: of the frame.
        fps: decisions a second; 0 takes the environment's ``render_fps / frame_skip``, or 30.
        actions: rows of ``{name, keys}`` in action order, or None for the environment's own names.
        noop: the action that does nothing.
        state: name of the reader of the game's own state, or None.
        behaviour: name of the scripted player, or None.
        score_limit: the episode ends when either side has so many points. None where it may also end otherwise: a world
            learned from a game with a limit ends its episodes by the points it told, and by nothing else.
        lives: how many an episode has, of a game whose ``info`` tells ``lives`` (Atari's does): recordings mark where
            one is lost, and a world learned from them counts them and ends its episodes with the last. None for a game
            without.
        lost_with: a number of the state that is NaN while what a life hangs on is out of the picture, such as a ball's
            height. A game may take the life long after, at a tick that no picture tells from the one before: with this,
            recordings mark it soon after that was lost sight of. None: where the game takes it.
        max_episode_steps: decisions until an episode is truncated.
        action_repeat: decisions an agent's action is held for (a hint for agents; the source ignores it).
        extra: pip extra that installs the game, or "".
        objects: colours and sizes by object name: for evaluation, and for a training that is told of which of them the
            errors count (``moments.about``).
    """

    name: str
    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    frame_skip: int = 1
    max_over: int = 1
    warm_up: int = 0
    crop: tuple[int, int, int, int] | None = None
    height: int = 64
    width: int = 64
    fps: float = 0.0
    actions: list[Any] | None = None
    noop: int = 0
    state: str | None = None
    behaviour: str | None = None
    score_limit: int | None = None
    lives: int | None = None
    lost_with: str | None = None
    max_episode_steps: int = 27000
    action_repeat: int = 1
    extra: str = ""
    objects: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("frame_skip", "max_over", "height", "width", "max_episode_steps"):
            if getattr(self, key) < 1:
                raise SourceError(f"source {self.name}: {key} must be at least 1, not {getattr(self, key)}")
        if self.lives is not None and (self.lives < 1 or self.score_limit is not None):
            raise SourceError(f"source {self.name}: give lives of at least 1 or a score_limit, not both")
        if self.lost_with is not None and None in (self.lives, self.state):
            raise SourceError(f"source {self.name}: lost_with is for a game with lives and a state: give both")
        if self.max_over > self.frame_skip:
            over = f"max_over {self.max_over} exceeds frame_skip {self.frame_skip}"
            raise SourceError(f"source {self.name}: {over}")
        if self.state is not None and self.state not in READERS:
            there = ", ".join(READERS)
            raise SourceError(f"source {self.name}: no state reader {self.state!r}: there are {there}")

    def at(self, height: int, width: int) -> SourceConfig:
        """The same source with frames of another size; the sizes of its objects follow."""
        objects = {name: dict(look) for name, look in self.objects.items()}
        for look in objects.values():
            if "size" in look:
                look["size"] = [look["size"][0] * width / self.width, look["size"][1] * height / self.height]
            if "area" in look:
                top, bottom, left, right = look["area"]
                down, across = height / self.height, width / self.width
                look["area"] = [top * down, bottom * down, left * across, right * across]
        return replace(self, height=height, width=width, objects=objects)

    def action_table(self) -> ActionTable:
        """The actions as a table; only of a resolved config (``make_source(config).config``)."""
        if self.actions is None:
            raise SourceError(f"{self.name} has the actions of {self.id}: ask make_source(config).actions")
        return ActionTable.from_json({"actions": self.actions, "noop": self.noop})


def load_source(name_or_id: str, **overrides: Any) -> SourceConfig:
    """The config of a source by its name in ``configs/source``, or defaults for any Gymnasium id.

    Args:
        name_or_id: such as ``"pong"`` or ``"CartPole-v1"``.
        overrides: fields of :class:`SourceConfig` to replace.

    Raises:
        SourceError: neither a known name nor something that looks like an id; the message lists the names.
    """
    names = group_names("source")
    if name_or_id in names:
        data: dict[str, Any] = {"name": name_or_id, **load_group("source", name_or_id)}
    elif name_or_id and ("/" in name_or_id or "-v" in name_or_id):
        extra = next((extra for start, extra in ID_EXTRAS.items() if name_or_id.startswith(start)), "")
        slug = "".join(c if c.isalnum() else "-" for c in name_or_id.split(":")[-1]).strip("-").lower()
        data = {"name": slug, "id": name_or_id, "extra": extra, "kwargs": {"render_mode": "rgb_array"}}
    else:
        raise SourceError(f"unknown source {name_or_id!r}: use one of {', '.join(names)}, or a Gymnasium id")
    return from_dict(SourceConfig, {**data, **overrides})
