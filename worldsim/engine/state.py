"""A session's state as plain arrays: what is saved, and what is checked before it is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.errors import WorldsimError
from worldsim.model.trail import no_trail
from worldsim.start import LONGEST
from worldsim.world import World

STATE_VERSION = 8


@dataclass(frozen=True, eq=False)
class SessionState:
    """All that n rows of a session need to continue bit for bit. Plain arrays, so it may be pickled by its
    owner.

    Attributes:
        version: Of this layout.
        world: Fingerprint of the world it belongs to.
        dtype: The session's number format; bfloat16 arrays are held as the int16 of the same bits.
        pending: Whether ``frames`` and ``actions`` were rendered and not yet committed.
        keys, values: [n, layers, ...], the cache as it lies in memory.
        written: int64 [n], frames each ring has seen.
        context: [n, L, D].
        view: [n, L, V], of the last committed frame.
        told: int64 [n], sign of the last committed reward, + 1.
        since: int64 [n], the last reward's sign times its age, see :func:`~worldsim.model.cue.since_rewards`.
        doubt: int64 [n], see :class:`~worldsim.engine.referee.Referee`.
        frames: uint8 [n, H, W, 3].
        actions: int64 [n].
        trail: int64 [n], see :mod:`worldsim.model.trail`.
        generators: uint8 [n, G].
        score: int64 [n, 2].
        tick: int64 [n].
        lives: int64 [n, 3], see :class:`~worldsim.engine.referee.Lives`.
    """

    version: int
    world: str
    dtype: str
    pending: bool
    keys: NDArray[Any]
    values: NDArray[Any]
    written: NDArray[np.int64]
    context: NDArray[Any]
    view: NDArray[Any]
    told: NDArray[np.int64]
    since: NDArray[np.int64]
    doubt: NDArray[np.int64]
    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    trail: NDArray[np.int64]
    generators: NDArray[np.uint8]
    score: NDArray[np.int64]
    tick: NDArray[np.int64]
    lives: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """How many rows the state holds."""
        return len(self.written)


def gather_state(world: str, dtype: torch.dtype, pending: bool, **arrays: Tensor | NDArray[Any]) -> SessionState:
    """A state from a session's tensors and arrays, copied."""
    held = {name: _to_array(value) for name, value in arrays.items()}
    return SessionState(STATE_VERSION, world, str(dtype), pending, **held)


def checked_state(state: SessionState, world: World, dtype: torch.dtype, memory: Tensor, rows: int) -> SimpleNamespace:
    """The tensors of a state, on the CPU, after checking that it fits.

    Args:
        state: Given by a user.
        world, dtype: Of the session.
        memory: Its keys [layers, B, ...].
        rows: That it is for.

    Raises:
        WorldsimError: another version, world, dtype or number of rows, or a damaged array.
    """
    if not isinstance(state, SessionState):
        raise WorldsimError(f"not a state of a session: {type(state).__name__}, use what snapshot() returned")
    if state.version != STATE_VERSION:
        raise WorldsimError(
            f"the state has version {state.version}, this worldsim reads {STATE_VERSION}: take a new one"
        )
    if state.world != world.fingerprint:
        raise WorldsimError(f"the state belongs to another world than this {world.name!r}: take a new one here")
    if state.dtype != str(dtype):
        raise WorldsimError(f"the state was taken in {state.dtype}, this session runs in {dtype}: use the same dtype")
    if state.rows != rows:
        raise WorldsimError(f"the state holds {state.rows} rows, {rows} are to be restored: name as many rows")
    c = world.config.model
    ring = (rows, len(memory), *memory.shape[2:])
    random = torch.Generator().get_state().shape
    whole = np.dtype(np.int64)
    layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        "keys": (ring, _stored(memory.dtype)),
        "values": (ring, _stored(memory.dtype)),
        "written": ((rows,), whole),
        "context": ((rows, c.tokens, c.dim), _stored(dtype)),
        "view": ((rows, c.tokens, c.view_dim), _stored(dtype)),
        "told": ((rows,), whole),
        "since": ((rows,), whole),
        "doubt": ((rows,), whole),
        "frames": ((rows, c.height, c.width, 3), np.dtype(np.uint8)),
        "actions": ((rows,), whole),
        "trail": ((rows,), whole),
        "generators": ((rows, *random), np.dtype(np.uint8)),
        "score": ((rows, 2), whole),
        "tick": ((rows,), whole),
        "lives": ((rows, 3), whole),
    }
    for name, (shape, kind) in layout.items():
        array = getattr(state, name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != kind:
            raise WorldsimError(f"the state's {name} is damaged: it should be {kind} {list(shape)}")
    sound = state.written.min() >= 1 and 0 <= state.told.min() <= state.told.max() <= 2
    sound = sound and -2 * LONGEST < state.since.min() <= state.since.max() < 2 * LONGEST
    sound = sound and 0 <= state.doubt.min() <= state.doubt.max() < 2 * LONGEST
    sound = sound and 0 <= state.trail.min() <= state.trail.max() <= no_trail(c)
    if not sound or not 0 <= state.actions.min() <= state.actions.max() < c.num_actions:
        raise WorldsimError("the state's frame count, action or reward is damaged: take a new one")
    try:
        for row in state.generators:
            torch.Generator().set_state(torch.from_numpy(row.copy()))
    except RuntimeError as error:
        raise WorldsimError("the state's random generator is damaged: take a new one") from error
    return SimpleNamespace(**{name: _to_tensor(getattr(state, name)) for name in layout})


def _to_array(value: Tensor | NDArray[Any]) -> NDArray[Any]:
    if isinstance(value, Tensor):
        held = value.cpu().contiguous()
        value = (held.view(torch.int16) if held.dtype == torch.bfloat16 else held).numpy()
    return value.copy()


def _to_tensor(array: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if array.dtype == np.int16 else tensor


def _stored(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(np.int16 if dtype == torch.bfloat16 else np.float32)
