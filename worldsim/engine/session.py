"""A running world: rows of one batch, each with its own history, noise and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine.backends import Backend
from worldsim.engine.inputs import check_actions, check_rows, check_seeds
from worldsim.engine.memory import Memory
from worldsim.engine.noise import RowNoise
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.engine.prepare import Parts, prepare_parts
from worldsim.engine.prime import StartLike, choose_start
from worldsim.engine.referee import Outcome, Referee
from worldsim.engine.sampler import levels
from worldsim.engine.state import SessionState, checked_state, gather_state
from worldsim.engine.stopwatch import Stopwatch
from worldsim.errors import StartError, WorldsimError
from worldsim.model.cue import cues
from worldsim.model.patches import to_uint8
from worldsim.world import World

_Shown = TypeVar("_Shown")


class Session:
    """One batched dream. A tick is :meth:`render`, action to frame, then :meth:`commit`, frame to memory.

    Every row draws its noise from its own generator, so row i of a batch seeded with s plays as a single
    session seeded with s + i, and nothing here touches PyTorch's global generator.

    Args:
        world: The world to run; its weights are shared, not copied, by sessions of the same device and dtype.
        batch: Rows.
        steps: Denoising steps per frame, 1 to 64; the world's own choice if not given.
        seed: Row i draws from seed + i.
        device: Where the networks run.
        dtype: ``"float32"``, ``"bfloat16"``, or ``None`` for the fastest the device has natively.
        backend: One of :data:`~worldsim.engine.backends.BACKENDS`. Rows are primed in eager PyTorch whatever it is.

    Attributes:
        stopwatch: Stages ``decode`` and ``to_uint8``, from an action to its frame; ``encode`` and ``outcome`` after it.

    Raises:
        WorldsimError: ``batch``, ``steps`` or ``seed`` is out of range.
        BackendError: the device, dtype or backend cannot be used here.
    """

    def __init__(
        self,
        world: World,
        batch: int = 1,
        *,
        steps: int | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        backend: str = "eager",
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise WorldsimError(f"a session has at least 1 row, not {batch!r}")
        self.world, self.batch = world, batch
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.model = world.model_on(self.device, self.dtype)
        self._levels = levels(world.config.steps if steps is None else steps, world.config.shift)
        self.stopwatch = Stopwatch(sync=torch.cuda.synchronize if self.device.type == "cuda" else None)
        c = self.model.config
        rules = world.config
        self._referee = Referee(
            batch, rules.score_limit, self.device, c.reward_ages, rules.lives, rules.shortest_life
        )
        self._memory = Memory(self.model, batch, world.config.context_level)
        self._noise = RowNoise((c.tokens, c.patch_dim), check_seeds(seed, batch))
        self._started = np.zeros(batch, bool)
        self._pending = False  # a frame was rendered and not yet committed
        self._idle: list[int] = []  # rows that were idle in it
        self._closed = False
        self._parts = self.make_parts(backend)

    @property
    def backend(self) -> str:
        """Name of the backend that runs the ticks."""
        return self._parts.backend.name

    def make_parts(self, backend: str | Backend) -> Parts:
        """Have a backend prepare this session's ticks, at its present number of steps; nothing changes yet.

        It may take minutes, and may run in another thread while this one plays on.

        Raises:
            BackendError: there is no such backend, or it cannot be used here.
        """
        return self._prepare(backend)

    def adopt(self, parts: Parts) -> Parts:
        """Run ticks with other parts from now on; between any two calls.

        Returns:
            Those that ran them until now.

        Raises:
            WorldsimError: they were made for another number of steps.
        """
        if parts.levels != self._levels:
            raise WorldsimError(f"parts for {len(parts.levels) - 1} steps cannot run {self.steps}: make_parts() again")
        before, self._parts = self._parts, parts
        return before

    @property
    def steps(self) -> int:
        """Denoising steps per frame, 1 to 64; may be set at any time. A backend that compiles does so again."""
        return len(self._levels) - 1

    @steps.setter
    def steps(self, steps: int) -> None:
        self._levels = levels(steps, self.world.config.shift)
        self._parts = self._prepare(self._parts.backend, made=self._parts)

    @property
    def score(self) -> NDArray[np.int64]:
        """Points rewarded with +1 and with -1 since each row's reset, int64 [B, 2]."""
        return self._referee.score

    @property
    def lives(self) -> NDArray[np.int64] | None:
        """Lives left, int64 [B]; ``None`` in a world without."""
        return None if self.world.config.lives is None else self._referee.lives.state[:, 0]

    @property
    def tick(self) -> NDArray[np.int64]:
        """Committed ticks since each row's reset, int64 [B]."""
        return self._referee.tick

    @property
    def frames(self) -> NDArray[np.uint8]:
        """The frames last shown, a copy, uint8 [B, H, W, 3]."""
        self._require_started("show frames")
        return to_host(self._memory.frames)

    @property
    def shown(self) -> Tensor:
        """The frames last shown, uint8 [B, H, W, 3] where the networks run.

        The session's own: read it before the next tick. What is written to it between render() and commit() is
        remembered in place of what was rendered.
        """
        self._require_started("show frames")
        return self._memory.frames

    @property
    def context(self) -> Tensor:
        """The encoder's tokens of the last committed frames, [B, L, D] in the session's dtype and on its device.

        The session's own: read it before the next tick, and do not write to it.
        """
        self._require_started("show its tokens")
        return self._memory.context

    @torch.inference_mode()
    def reset(
        self,
        rows: Sequence[int] | NDArray[np.integer] | None = None,
        start: StartLike | list[StartLike] = None,
        seed: int | Sequence[int] | None = None,
    ) -> NDArray[np.uint8]:
        """Start rows over: prime them with a start's frames and actions.

        The action between the last frame of the start and the first rendered frame is the player's.

        Args:
            rows: Row numbers, or ``None`` for all.
            start: See :data:`~worldsim.engine.prime.StartLike`; a list gives each of the rows its own.
            seed: Row ``rows[k]`` draws from ``seed + k`` from now on, or from ``seed[k]``; ``None`` draws on.

        Returns:
            The last frame of each start, uint8 [n, H, W, 3].

        Raises:
            StartError: an unknown start, or frames and actions that do not fit this world.
            WorldsimError: no such row, some rows reset between render and commit, or a closed session.
        """
        self._require_open("reset")
        chosen = check_rows(rows, self.batch)
        if self._pending and len(chosen) < self.batch:
            raise WorldsimError("some rows were reset between render() and commit(): commit() first")
        wanted = start if isinstance(start, list) else [start] * len(chosen)
        if len(wanted) != len(chosen):
            raise StartError(f"{len(wanted)} starts were given for {len(chosen)} rows: give one, or one each")
        generators = [self._noise[row] for row in chosen]
        if seed is not None:
            generators = [torch.Generator().manual_seed(one) for one in check_seeds(seed, len(chosen))]
        starts = [choose_start(self.world, *pair) for pair in zip(wanted, generators, strict=True)]
        # Nothing can be refused from here on.
        self._noise.replace(chosen, generators)
        self._pending = False
        self._memory.begin(chosen, starts)
        self._referee.begin(chosen, [one.since for one in starts])
        self._started[chosen] = True
        return to_host(self._memory.frames[chosen])

    def render(
        self, actions: Sequence[int] | NDArray[np.integer], idle: Sequence[int] | NDArray[np.integer] = ()
    ) -> NDArray[np.uint8]:
        """The frames that follow if these actions are taken now.

        Args:
            actions: Whole numbers [B].
            idle: Rows that wait to be reset: they draw no noise and keep score and tick. What else they hold, their
                frames too, means nothing until their reset.

        Returns:
            uint8 [B, H, W, 3], the caller's own.

        Raises:
            ActionError: wrong shape, dtype or range.
            WorldsimError: no such idle row, rows never reset, a frame not yet committed, or a closed session.
        """
        return self._render(actions, idle, to_host)

    def render_on_device(
        self, actions: Sequence[int] | NDArray[np.integer], idle: Sequence[int] | NDArray[np.integer] = ()
    ) -> Tensor:
        """As :meth:`render`, without the copy to the host: uint8 [B, H, W, 3] where the networks run.

        The session's own: read it before the next tick, and do not write to it.
        """
        return self._render(actions, idle, lambda frames: frames)

    @torch.inference_mode()
    def _render(
        self,
        actions: Sequence[int] | NDArray[np.integer],
        idle: Sequence[int] | NDArray[np.integer],
        take: Callable[[Tensor], _Shown],
    ) -> _Shown:
        given = check_actions(actions, self.batch, len(self.world.actions))
        waiting = check_rows(idle, self.batch) if len(idle) else []
        self._require_started("render")
        if self._pending:
            raise WorldsimError("render() was called twice: commit() the last frame first")
        memory = self._memory
        with self.stopwatch("decode"):
            memory.action.numpy()[:] = given
            action, noise = memory.action.to(self.device), self._noise.draw(waiting).to(self.device)
            cue = cues(action, self._referee.since, self.model.config)
            patches = self._parts.decode(noise, memory.scene, cue)
        with self.stopwatch("to_uint8"):
            memory.frames.copy_(self.model.unpatchify(to_uint8(patches)))
            shown = take(memory.frames)
        self._idle, self._pending = waiting, True
        return shown

    @torch.inference_mode()
    def commit(self) -> Outcome:
        """Remember the uint8 frames that were shown, and their actions, and read what followed.

        Returns:
            See :class:`Outcome`; in a world with a ``score_limit``, ``terminated`` is when a side has reached it; in
            one with ``lives``, when the last is lost.

        Raises:
            WorldsimError: nothing was rendered, or a closed session.
        """
        self._require_started("commit")
        if not self._pending:
            raise WorldsimError("commit() was called without a rendered frame: render() first")
        with self.stopwatch("encode"):
            self._memory.keep(self._parts.encode, by_row=self._parts.backend.fixed_shapes)
        with self.stopwatch("outcome"):
            told = self._memory.context, self._memory.view, self._referee.told
            outcome = self._referee.judge(self._parts.outcome(*told), self._idle)
        self._pending = False
        return outcome

    def step(
        self, actions: Sequence[int] | NDArray[np.integer], idle: Sequence[int] | NDArray[np.integer] = ()
    ) -> tuple[NDArray[np.uint8], Outcome]:
        """:meth:`render` and :meth:`commit`."""
        return self.render(actions, idle), self.commit()

    @torch.inference_mode()
    def snapshot(self, rows: Sequence[int] | NDArray[np.integer] | None = None) -> SessionState:
        """All that rows need to continue bit for bit, an uncommitted frame included; settings stay out."""
        self._require_started("take a snapshot")
        chosen = check_rows(rows, self.batch)
        return gather_state(
            world=self.world.fingerprint,
            dtype=self.dtype,
            pending=self._pending,
            **self._memory.held(chosen),
            told=self._referee.told[chosen],
            since=self._referee.since[chosen],
            doubt=self._referee.doubt[chosen],
            generators=self._noise.states(chosen),
            score=self.score[chosen],
            tick=self.tick[chosen],
            lives=self._referee.lives.state[chosen],
        )

    @torch.inference_mode()
    def restore(self, state: SessionState, rows: Sequence[int] | NDArray[np.integer] | None = None) -> None:
        """Continue rows from a snapshot, of this session or another of the same world and dtype.

        Raises:
            WorldsimError: a damaged state, or one of another world, version, dtype or number of rows, or for some rows
                of a session that has an uncommitted frame where the state has none, or the reverse.
        """
        self._require_open("restore")
        chosen = check_rows(rows, self.batch)
        held = checked_state(state, self.world, self.dtype, self._memory.cache.keys, len(chosen))
        if state.pending != self._pending and len(chosen) < self.batch:
            raise WorldsimError(
                "the state and the session differ in a pending frame: restore all rows, or commit() first"
            )
        self._memory.restore(chosen, vars(held))
        self._referee.told[chosen] = held.told.to(self.device)
        self._referee.since[chosen] = held.since.to(self.device)
        self._referee.doubt[chosen] = held.doubt.to(self.device)
        self._noise.set_states(chosen, held.generators)
        self.score[chosen] = state.score
        self.tick[chosen] = state.tick
        self._referee.lives.state[chosen] = state.lives
        self._started[chosen] = True
        self._idle, self._pending = [], state.pending

    def close(self) -> None:
        """Let go of the buffers; anything but closing again is an error from now on."""
        self._closed = True
        self._memory = self._noise = None  # type: ignore[assignment]

    def _prepare(self, backend: str | Backend, made: Parts | None = None) -> Parts:
        example = self._memory.cache, self._noise.buffer, self._memory.view, self._memory.context
        return prepare_parts(backend, self.model, self._levels, *example, made=made)

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise WorldsimError(f"cannot {what}: the session is closed, make a new one")

    def _require_started(self, what: str) -> None:
        self._require_open(what)
        if not self._started.all():
            rows = ", ".join(map(str, np.flatnonzero(~self._started)))
            raise WorldsimError(f"cannot {what}: reset() row {rows} first")


def to_host(frames: Tensor) -> NDArray[np.uint8]:
    """Frames as an array of the caller's own."""
    array: NDArray[np.uint8] = frames.cpu().numpy()
    return array.copy() if frames.device.type == "cpu" else array
