"""The files of a world folder: read with every doubt, written so that a failure leaves the old ones."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from worldsim.errors import StartError, WorldError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.dit import DiT
from worldsim.model.world_model import WorldModel
from worldsim.start import Start

FORMAT, VERSION = "worldsim-world", 8
CONFIG, WEIGHTS, STARTS, CARD = "config.json", "model.safetensors", "starts.npz", "CARD.md"
FILES = (CONFIG, WEIGHTS, STARTS, CARD)

_MEND = "restore it, or save the world again"


def bare_model(config: ModelConfig, design: str = SEPARABLE) -> WorldModel | DiT:
    """A network whose weights are about to be replaced, made without a trace in the global random state."""
    with torch.random.fork_rng(devices=[]):
        made = WorldModel(config) if design == SEPARABLE else Design.parse(design).make(config)
        return made.eval().requires_grad_(False)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` without its header, after checking that the files it was saved with lie beside it.

    Raises:
        WorldError: a file is missing, foreign, truncated, of another version, or not the one of this config.
    """
    path = folder / CONFIG
    try:
        values = json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:  # JSON and UTF-8 errors are both ValueErrors
        raise WorldError(f"{path} is not readable as JSON (truncated?): {_MEND}") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise WorldError(f'{path} is not a world\'s: a world\'s {CONFIG} says "format": "{FORMAT}"')
    version = values.pop("version", None)
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        mend = "upgrade worldsim, or save it again" if newer else "train and save it again, or use its own worldsim"
        raise WorldError(f"{path} has version {version}, this worldsim reads {VERSION}: {mend}")
    digests = values.pop("files", None)
    for name in (WEIGHTS, STARTS):
        _existing(folder / name)
        if not isinstance(digests, dict) or not isinstance(digests.get(name), str):
            raise WorldError(f"{path} does not name the checksum of {name}: {_MEND}")
    for name in (WEIGHTS, STARTS):
        if digests[name] != _digest(folder / name):
            raise WorldError(f"{folder / name} is truncated, or not the one this world was saved with: {_MEND}")
    return values


def read_weights(folder: Path, config: ModelConfig, design: str = SEPARABLE) -> WorldModel | DiT:
    """The float32 network from ``model.safetensors``.

    Raises:
        WorldError: not safetensors, tensors of other names or shapes than the config's, or a NaN or infinity.
    """
    path = _existing(folder / WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            # A damaged config must not allocate more than the weights beside it account for.
            if _least_size(config, design) > sum(map(math.prod, found.values())):
                raise WorldError(f"{path} is smaller than the model in {CONFIG}: {_MEND}")
            model = bare_model(config, design)
            wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
            odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            if odd:
                held, asked = (shapes.get(odd[0], "missing") for shapes in (found, wanted))
                raise WorldError(f"{path} does not fit {CONFIG} ({odd[0]}: {held}, not {asked}): {_MEND}")
            weights = {name: file.get_tensor(name).float() for name in found}
    except SafetensorError as error:
        raise WorldError(f"{path} is not a safetensors file, or truncated ({error}): {_MEND}") from error
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise WorldError(f"{path} holds NaN or infinity in {name}: {_MEND}")
    model.load_state_dict(weights)
    return model


def read_starts(folder: Path, config: ModelConfig) -> tuple[Start, ...]:
    """The starts in ``starts.npz``.

    Raises:
        WorldError: not an npz file of the three arrays, pickled objects in it, or starts that do not fit the
            model.
    """
    path = _existing(folder / STARTS)
    try:
        with np.load(path, allow_pickle=False) as file:
            frames, actions, names = file["frames"], file["actions"], file["names"]
            since = file["since"] if "since" in file else np.zeros(len(names), np.int64)  # older worlds do not say
        if names.dtype.kind != "U" or not len(set(names)) == len(frames) == len(actions) == len(since) > 0:
            raise WorldError(f"{path} does not hold a name of its own for each of its starts: {_MEND}")
        starts = (Start(str(name), frames[i], actions[i], since[i]) for i, name in enumerate(names))
        return tuple(start.check(config) for start in starts)
    except StartError as error:
        raise WorldError(f"{path}: {error}; {_MEND}") from error
    # A damaged archive shows itself in any of these.
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise WorldError(f"{path} is not a world's starts, or truncated ({error}): {_MEND}") from error


def read_card(folder: Path) -> str:
    """Text of ``CARD.md``, empty if there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def write_folder(
    folder: Path, config: Mapping[str, Any], model: WorldModel | DiT, starts: Sequence[Start], card: str
) -> Path:
    """Write all files beside the old ones, then put them in their places.

    Raises:
        WorldError: see :func:`worldsim.world.save_world`.
    """
    if len({start.frames.shape for start in starts}) != 1:
        raise WorldError("the world cannot be saved: its starts must all have the same number of frames")
    weights = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise WorldError(f"the world cannot be saved: its weights hold NaN or infinity in {broken[0]}")
    existed, draft = folder.is_dir(), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, draft / WEIGHTS)
        np.savez_compressed(
            draft / STARTS,
            frames=np.stack([start.frames for start in starts]),
            actions=np.stack([start.actions for start in starts]),
            names=np.array([start.name for start in starts]),
            since=np.array([start.since for start in starts], np.int64),
        )
        (draft / WEIGHTS).chmod((draft / STARTS).stat().st_mode)  # safetensors makes files for their owner alone
        if card:
            (draft / CARD).write_text(card, encoding="utf-8")
        header = {
            "format": FORMAT,
            "version": VERSION,
            "files": {name: _digest(draft / name) for name in (WEIGHTS, STARTS)},
        }
        (draft / CONFIG).write_text(json.dumps(header | dict(config), indent=2) + "\n", encoding="utf-8")
        written = [draft / name for name in (WEIGHTS, STARTS, CARD, CONFIG) if (draft / name).exists()]
        for path in written:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        for path in written:
            os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise WorldError(f"cannot save to {folder} ({reason}): free some space or choose another folder") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise WorldError(f"{path} is missing: {_MEND}")
    return path


def _least_size(c: ModelConfig, design: str) -> int:
    """A number of parameters that a network of this shape exceeds."""
    block = (4 + 2 * c.mlp_ratio) * c.dim**2
    blocks = c.encoder_layers * block
    if design == SEPARABLE:
        blocks += c.decoder_layers * (block if c.decoder == "tokens" else 2 * 9 * (2 * c.decoder_width) ** 2)
    return blocks + c.dim * (c.tokens + c.patch_dim + c.num_actions + c.context_levels) + c.heads * c.window


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
