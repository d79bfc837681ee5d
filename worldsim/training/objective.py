"""The pretraining loss in a number format of its own, compiled whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from worldsim.model.world_model import WorldModel
from worldsim.training.loss import Batch, LossConfig, pretrain_loss


class Objective(nn.Module):
    """The loss as a module, so that it can be called with its parameters in another number format."""

    def __init__(self, model: WorldModel, config: LossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, own: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        return pretrain_loss(self.model, batch, self.config, own=own)


def make_objective(
    model: WorldModel, config: LossConfig, dtype: torch.dtype, compiled: bool
) -> Callable[[Batch, tuple[int, ...]], tuple[Tensor, dict[str, Tensor]]]:
    """The loss of a batch, computed in ``dtype`` with gradients to the model's float32 weights."""
    objective = Objective(model, config)

    def loss(own: tuple[int, ...], *fields: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = {name: weight.to(dtype) for name, weight in objective.named_parameters()}
        result: tuple[Tensor, dict[str, Tensor]] = functional_call(objective, weights, (Batch(*fields), own))
        return result

    run = torch.compile(loss) if compiled else loss
    return lambda batch, own: run(own, *vars(batch).values())
