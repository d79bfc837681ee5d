"""Who plays when the player hands the controls over: a policy trained in the dream, or the game's scripted player."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.agents.policy import Policy, Stack, load_policy
from worldsim.engine.session import Session
from worldsim.envs.observation import Observer, grey
from worldsim.errors import WorldsimError
from worldsim.play.autopilot import Autopilot

POLICY = "policy.safetensors"  # in a world's folder


class Pilot(Protocol):
    """Chooses actions in place of a person.

    Attributes:
        name: For the panel.
    """

    name: str

    def begin(self) -> None:
        """Whatever was seen before is of no account: the controls were handed over, or an episode began."""
        ...

    def act(self, session: Session, frame: NDArray[np.uint8]) -> int:
        """The action after what the session has committed last, and its frame uint8 [H, W, 3]."""
        ...


class PolicyPilot:
    """A policy, on what it was trained on: the encoder's tokens, which the session has anyway, or grey frames."""

    name = "policy"

    def __init__(self, policy: Policy, session: Session, seed: int) -> None:
        self._policy, self._repeat = policy, policy.config.action_repeat
        self._observer = Observer(session.world, policy.config.obs_type)
        self._generator = torch.Generator().manual_seed(seed)
        self.begin()

    def begin(self) -> None:
        """See :class:`Pilot`."""
        self._stack: Stack | None = None
        self._action, self._left = 0, 0

    def act(self, session: Session, frame: NDArray[np.uint8]) -> int:
        """See :class:`Pilot`; an action is held for as many ticks as in training."""
        if not self._left:
            self._action = int(self._policy.act(self._observe(session, frame), self._generator)[0])
            self._left = self._repeat
        self._left -= 1
        return self._action

    def _observe(self, session: Session, frame: NDArray[np.uint8]) -> torch.Tensor:
        if self._policy.config.obs_type == "latent":
            return self._observer.pool(session.context).cpu()
        shades = grey(torch.from_numpy(frame[None]))
        if self._stack is None:
            self._stack = Stack(shades)
            return self._stack.frames
        return self._stack.push(shades)


class ScriptedPilot:
    """The scripted player, which sees the picture."""

    name = "script"

    def __init__(self, session: Session, seed: int) -> None:
        self._session, self._seed = session, seed
        self._player = Autopilot(session.world, seed)

    def begin(self) -> None:
        """See :class:`Pilot`; every time with another manner."""
        self._seed += 1
        self._player = Autopilot(self._session.world, self._seed)

    def act(self, session: Session, frame: NDArray[np.uint8]) -> int:
        """See :class:`Pilot`."""
        return self._player.act(frame)


def find_pilot(session: Session, folder: Path, policy: Path | None, seed: int) -> Pilot | None:
    """The policy that is named, else the one in the world's folder, else the scripted player, or nobody.

    Raises:
        WorldsimError: the named file is not a policy for this world.
    """
    shipped = folder / POLICY
    if policy is not None or shipped.is_file():
        held, _ = load_policy(policy or shipped)
        told, world = held.config, session.world
        c = world.config.model
        same_size = tuple(told.shape[1:]) == (c.height, c.width)
        fits = told.fingerprint == world.fingerprint if told.obs_type == "latent" else same_size
        if fits and told.actions == tuple(world.actions.names):
            return PolicyPilot(held, session, seed)
        if policy is not None:
            raise WorldsimError(
                f"{policy} was trained in another {told.world!r} than this one: python -m worldsim.agents.ppo"
            )
    try:
        return ScriptedPilot(session, seed)
    except WorldsimError:
        return None
