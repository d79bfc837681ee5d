"""What a training step computes, in a number format of its own, each part compiled whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.engine.sampler import levels
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel
from worldsim.training.computing import Computer
from worldsim.training.crops import Crops
from worldsim.training.loss import Batch, LossConfig, pretrain_loss
from worldsim.training.own import Turn, own_frames
from worldsim.training.recall import Recall


class Objective:
    """The loss of a batch and the frames its clips show, computed in ``dtype`` from the model's float32 weights.

    Args:
        model: Trained; gradients go to its weights.
        config: See :class:`~worldsim.training.loss.LossConfig`.
        dtype: Of all that is computed.
        compiled: Whether with torch.compile.
        blind: Whether frames are made from the encoder's blind contexts, see
            :func:`~worldsim.training.own.own_frames`.
    """

    def __init__(
        self, model: WorldModel, config: LossConfig, dtype: torch.dtype, compiled: bool, *, blind: bool = False
    ) -> None:
        self.model, self.dtype = model, dtype
        at = levels(config.own_steps, config.own_shift or 1.0)
        computer, loss, tick = Computer(dtype, compiled), _Loss(model, config), _OwnTick(model, at, blind)

        def compute_loss(seen: Tensor, *fields: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            result: tuple[Tensor, dict[str, Tensor]] = computer.call(loss, Batch(*fields), seen)
            return result

        self._loss, self._tick = computer.built(compute_loss), computer.computed(tick, gradient=False)

    def show(self, batch: Batch, own: Sequence[int] = (), before: Tensor | None = None) -> Tensor:
        """Patches [B, T, L, P] of what the encoder is shown: real frames, and in the rows ``own`` the model's.

        Those clips are as a roll-out is: said to be clean, whatever level of context noise the batch had for them.

        Args:
            batch: Its ``context_level`` is written to.
            own: Rows, see :func:`~worldsim.training.own.own_rows`.
            before: Patches uint8 [rows, T, L, P] that the model's are made from; None: the real ones.
        """
        seen = self.model.see(batch.frames, self.dtype)
        if not own:
            return seen
        some = torch.tensor(own, device=seen.device)
        batch.context_level[some] = 0
        cues, noise = batch.cues(self.model.config)[some], batch.context_noise[some, 1:].to(self.dtype)
        previous = self.model.previous_actions(batch.actions[some])
        made, level = seen[some], batch.own_level[some].to(self.dtype)
        real = made[:, 1:]
        if before is not None:
            made = self.model.shown(before.to(seen.device), self.dtype)
        made = self._tick(made, previous, cues, noise, real, level)
        return seen.index_copy_(0, some, made)

    def loss(self, batch: Batch, seen: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`~worldsim.training.loss.pretrain_loss`."""
        result: tuple[Tensor, dict[str, Tensor]] = self._loss(seen, *vars(batch).values())
        return result


class OwnPool:
    """The model's own frames, kept from one turn of their clips to the next; see :class:`~worldsim.training.own.Turn`.

    Args:
        config: Says how large the pool is, and how many turns a clip has.
        begun: The step from which on frames are the model's own.
    """

    def __init__(self, config: LossConfig, begun: int = 0) -> None:
        self._config, self.begun = config, begun
        # By slot of the pool: which clips, and patches of this process's own frames, uint8 [rows, T, L, P].
        self._made: dict[int, tuple[int, Tensor]] = {}

    def show(self, objective: Objective, batch: Batch, own: Sequence[int], step: int) -> Tensor:
        """As :meth:`Objective.show`, each frame of the model's own made from those of the clip's last turn."""
        if not own or step < self.begun:
            return objective.show(batch)
        turn = Turn.at(step, self.begun, self._config.own_pool, self._config.own_ticks)
        clips, made = self._made.get(turn.slot, (-1, None))
        # Of other clips are those of a run whose planned end was changed: it begins with real ones again.
        seen = objective.show(batch, own, made if turn.ticks and clips == turn.clips else None)
        kept = to_uint8(seen[list(own)].float())
        self._made[turn.slot] = turn.clips, kept
        return seen

    def clear(self) -> None:
        """Forget all."""
        self._made.clear()

    def state(self) -> dict[str, Tensor]:
        """All that is kept."""
        return {f"{slot}.{clips}": frames for slot, (clips, frames) in self._made.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        for name, frames in state.items():
            slot, clips = map(int, name.split("."))
            self._made[slot] = clips, frames


class _Loss(nn.Module):
    """The loss as a module, so that it can be called with its parameters in another number format."""

    def __init__(self, model: WorldModel, config: LossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        device = next(model.parameters()).device
        self.recall = Recall(model.config).to(device) if config.recall else None
        self.within = [Crops(model.config, config.crop).within(model) if config.crop else None]  # the same weights

    def forward(self, batch: Batch, seen: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return pretrain_loss(self.model, batch, self.config, seen, self.within[0], self.recall)


class _OwnTick(nn.Module):
    """One tick of own frames, likewise."""

    def __init__(self, model: WorldModel, at: Sequence[float], blind: bool) -> None:
        super().__init__()
        self.model, self.at, self.blind = model, at, blind

    def forward(
        self, seen: Tensor, previous: Tensor, cues: Tensor, noise: Tensor, real: Tensor, level: Tensor
    ) -> Tensor:
        return own_frames(self.model, seen, previous, cues, noise, self.at, real, level, blind=self.blind)
