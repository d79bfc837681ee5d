"""A model's weights in a model that sees more: what is new begins by adding nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from worldsim.model.config import ModelConfig

_OF_VIEWS = "encoder.patches.weight", "heads.view.weight", "decoder.patches.weight"  # [out, ... values of a view]


def of_history(weights: Mapping[str, Tensor], theirs: ModelConfig, ours: ModelConfig) -> dict[str, Tensor]:
    """Weights for a longer ``history``: older changes are the last of what is seen, and are given columns of zeros.

    Args:
        weights: By name.
        theirs: Their model's shape; without ``extrapolated``, which would come after them.
        ours: The shape that they are wanted for.
    """
    resized, more = dict(weights), ours.view_dim - theirs.view_dim
    for name in _OF_VIEWS:
        if name in weights:
            resized[name] = F.pad(weights[name], (0, more))
    if ours.decoder == "convolutions":
        values = weights["decoder.seen.weight"].unflatten(1, (3, 3, -1))
        each = values.shape[-1] // theirs.history
        resized["decoder.seen.weight"] = F.pad(values, (0, each * (ours.history - theirs.history))).flatten(1)
    return resized
