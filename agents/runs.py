"""What every training of a policy has: a folder with its settings, and a checkpoint that it goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worldsim.agents.policy import Policy
from worldsim.checkpoint import load_checkpoint, named, part, save_checkpoint, write_atomically
from worldsim.errors import RunError

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class PolicyRun:
    """One run's folder.

    Args:
        folder: Made when something is written.
        policy, optimizer: What goes on.
    """

    def __init__(self, folder: Path, policy: Policy, optimizer: torch.optim.Adam) -> None:
        self.folder, self._policy, self._optimizer = folder, policy, optimizer

    @property
    def checkpoint(self) -> Path:
        """The training state."""
        return self.folder / "checkpoint.safetensors"

    def begin(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Write the settings of a new run, or put back the state of one that goes on.

        Returns:
            What :meth:`save` was told beside it; None for a new run.

        Raises:
            RunError: the run was begun with other settings.
        """
        path, told = self.folder / "settings.json", json.loads(json.dumps(settings))
        if not (path.exists() and self.checkpoint.exists()):
            write_atomically(path, json.dumps(told, indent=1).encode())
            return None
        held = json.loads(path.read_text(encoding="utf-8"))
        for key, value in told.items():
            if held.get(key) != value:
                raise RunError(f"{self.folder} was begun with {key}={held.get(key)}, not {value}: give run=<folder>")
        tensors, facts = load_checkpoint(self.checkpoint)
        self._policy.load_state_dict(part(tensors, "policy"))
        state, moments = self._optimizer.state_dict(), part(tensors, "adam")
        count = len(state["param_groups"][0]["params"])
        state["state"] = {i: {kind: moments[f"{i}.{kind}"] for kind in _MOMENTS} for i in range(count)}
        self._optimizer.load_state_dict(state)
        return facts

    def save(self, facts: Mapping[str, Any], of_policy: Mapping[str, Any], made: Policy | None = None) -> None:
        """Write state and policy, atomically, each with its facts; ``made`` of the policy that learns, if not that."""
        states = self._optimizer.state_dict()["state"]
        moments = {f"{i}.{kind}": value for i, held in states.items() for kind, value in held.items()}
        tensors = named("policy", self._policy.state_dict()) | named("adam", moments)
        save_checkpoint(self.checkpoint, tensors, dict(facts))
        (made or self._policy).save(self.folder / "policy.safetensors", **of_policy)
