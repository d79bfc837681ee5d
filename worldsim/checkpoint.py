"""A training state on disk: one safetensors file, replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from worldsim.errors import RunError


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that a reader, or a machine that stops, sees the old one or the new one whole.

    Raises:
        RunError: the disk is full or not writable; the old file is untouched.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(
            f"cannot save {path}: {error.strerror}; free some space, what was saved before is intact"
        ) from error


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts (step, settings) atomically.

    Raises:
        RunError: the disk is full or not writable; the old checkpoint is untouched.
    """
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(flat, metadata={"worldsim": json.dumps(facts)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        RunError: the file is truncated or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["worldsim"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunError(f"{path} is not a whole worldsim checkpoint: delete it to start this run anew") from error


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone, without the tensors.

    Raises:
        RunError: the file is truncated or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["worldsim"])
            return facts
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunError(f"{path} is not a whole worldsim checkpoint") from error


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix.``, without it."""
    return {name.removeprefix(prefix + "."): value for name, value in tensors.items() if name.startswith(prefix + ".")}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
