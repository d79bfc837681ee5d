"""A training state on disk: one safetensors file, replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldsim.errors import RunError

_NOT_WHOLE = SafetensorError, KeyError, TypeError, ValueError, OSError


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
    """Read what :func:`save_checkpoint` wrote, also of a run that goes on and saves meanwhile.

    Raises:
        RunError: the file is truncated or foreign.
    """
    try:
        # Opened once: safetensors' own reader opens a file by its name twice, and between the two it may be another.
        with open(path, "rb") as file:
            facts = _facts(file)
            file.seek(0)
            return load(file.read()), facts
    except _NOT_WHOLE as error:
        raise RunError(f"{path} is not a whole worldsim checkpoint: delete it to start this run anew") from error


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone, without the tensors.

    Raises:
        RunError: the file is truncated or foreign.
    """
    try:
        with open(path, "rb") as file:
            return _facts(file)
    except _NOT_WHOLE as error:
        raise RunError(f"{path} is not a whole worldsim checkpoint") from error


def _facts(file: BinaryIO) -> dict[str, Any]:
    """What stands in the header of a safetensors file: its length in 8 bytes, then JSON."""
    length = int.from_bytes(file.read(8), "little")
    if length > os.fstat(file.fileno()).st_size:
        raise ValueError("a header that is longer than the file")
    facts: dict[str, Any] = json.loads(json.loads(file.read(length))["__metadata__"]["worldsim"])
    return facts


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix.``, without it."""
    return {name.removeprefix(prefix + "."): value for name, value in tensors.items() if name.startswith(prefix + ".")}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
