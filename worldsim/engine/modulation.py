"""What a noise level and an action do to the decoder, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from worldsim.model.world_model import WorldModel


class ModulationTable:
    """The decoder's modulations by noise level and action.

    A sampler asks for a handful of levels and a game has a handful of actions. Computing them every time reads a third
    of the decoder's weights; this table took a quarter off the time from an action to its frame.
    """

    def __init__(self, model: WorldModel) -> None:
        self._model = model
        self._tables: dict[float, list[Tensor]] = {}

    @torch.inference_mode()
    def prepare(self, levels: Iterable[float]) -> None:
        """Fill in noise levels ahead of their use."""
        device = self._model.decoder.position.device
        actions = torch.arange(self._model.config.num_actions, device=device)
        for t in levels:
            if t not in self._tables:
                self._tables[t] = self._model.modulations(torch.full((len(actions),), t, device=device), actions)

    def look_up(self, t: float, action: Tensor) -> list[Tensor]:
        """:meth:`WorldModel.modulations` of a prepared level for actions int64 [B]."""
        return [table.index_select(0, action) for table in self._tables[t]]
