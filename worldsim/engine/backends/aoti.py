"""AOTInductor: a part exported, compiled to a shared library once, kept on disk and loaded without a compiler.

The library lies in ``<WORLDSIM_HOME or ~/.cache/worldsim>/compiled/`` under a name made of everything it depends on:
weights, shapes, dtypes, PyTorch, the processor's instructions. It is this machine's own work and never part of a world.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part, first_line
from worldsim.errors import BackendError
from worldsim.settings import home


class NotCompiled(BackendError):
    """The library is not on disk and was not to be made."""


class AOTInductor:
    """Compiles what is not on disk yet; loads the rest in a fraction of a second.

    Args:
        compiles: Whether to; a program that plays leaves that to another process.
    """

    name = "aoti"
    fixed_shapes = True

    def __init__(self, compiles: bool = True) -> None:
        self._compiles = compiles

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, from disk or compiled; see :class:`~worldsim.engine.backends.Backend`."""
        path = package_path(part, example)
        if not path.exists():
            if not self._compiles:
                raise NotCompiled(f"{path} is not there: backend=aoti compiles it")
            build(part, example, path)
        return load(path, example)


def package_path(part: nn.Module, example: Iterable[Tensor]) -> Path:
    """Where a part compiled for arguments like ``example`` is kept."""
    digest = hashlib.sha256()
    for fact in (
        type(part).__name__,
        _code(),
        getattr(part, "levels", ()),
        torch.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),  # the generated loops are divided among as many
        sorted(torch.cpu.get_capabilities().items()),
        [(tuple(x.shape), str(x.dtype), str(x.device)) for x in example],
    ):
        digest.update(repr(fact).encode())
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return home() / "compiled" / f"{type(part).__name__}-{digest.hexdigest()[:24]}.pt2"


@cache
def _code() -> str:
    """Digest of what computes a tick: a library of other code is another library."""
    package = Path(__file__).parents[2]
    files = [*sorted((package / "model").glob("*.py")), package / "engine/parts.py", package / "engine/sampler.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def build(part: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Compile a part for arguments like ``example`` and put the library at ``path``, whole or not at all.

    Raises:
        BackendError: no compiler, a graph that cannot be exported, or a folder that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folders = tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-")
        # Tensors of inference mode cannot be exported; copies made outside of it can. And two arguments that are one
        # tensor would be taken for one argument.
        with folders as folder, torch.inference_mode(False), torch.no_grad():
            copies = tuple(x.clone(memory_format=torch.contiguous_format) for x in example)
            exported = torch.export.export(part, copies, strict=False)
            made = torch._inductor.aoti_compile_and_package(
                exported, package_path=str(Path(folder) / "part.pt2"), inductor_configs={"freezing": True}
            )
            os.replace(made, path)
    except OSError as error:
        raise BackendError(
            f"cannot write {path} ({error.strerror or error}): set WORLDSIM_HOME to another folder"
        ) from error
    except Exception as error:  # a compiler can fail in a hundred ways
        raise BackendError(
            f"backend 'aoti' cannot compile here ({first_line(error)}): install a C++ compiler (apt install g++), "
            "or use backend=eager"
        ) from error


def load(path: Path, example: tuple[Tensor, ...]) -> Part:
    """A compiled part, run once on ``example``.

    Raises:
        BackendError: the file is damaged, or of another machine.
    """
    try:
        package = torch._inductor.aoti_load_package(str(path))
        package(*map(_as_compiled, example))
    except Exception as error:
        raise BackendError(
            f"{path} cannot be loaded ({first_line(error)}): delete it, it will be made again"
        ) from error

    def run(*arguments: Tensor) -> Any:
        return package(*map(_as_compiled, arguments))

    return run


def _as_compiled(x: Tensor) -> Tensor:
    """The tensor in one piece. A library reads its arguments as if they lay as the example did, and does not look."""
    return x.contiguous()


def make(device: torch.device) -> AOTInductor:
    """For any device."""
    return AOTInductor()
