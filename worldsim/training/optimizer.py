"""Muon on the blocks' matrices, AdamW on everything else, one schedule, and an average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.engine.precision import pick_dtype
from worldsim.training.muon import Muon

#: Parts of the names of maps outside the blocks whose inputs are nearly the same in every frame: the background, a
#: token's place, a noise level. Not those of noisy frames.
STEADY = ("context.weight", "encoder.patches.weight", "modulation.", "level.up.weight", "level.down.weight")
_OF_LOGITS = 30.0  # of AdamW's rate
_OF_REWARDS = 10.0


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights move.

    Attributes:
        muon_lr: Learning rate of Muon, on the matrices inside the blocks; 0: AdamW moves those too.
        adam_lr: Learning rate of AdamW, on embeddings, norms, convolutions, first and last layers; of some a share, see
            :func:`share`.
        weight_decay: Of Muon; AdamW's is 0.
        warmup: Steps of linear warm-up.
        decay: Share of the run, at its end, over which the rates fall linearly to zero.
        ema: Decay of the average of the weights; a young run averages over a tenth of its steps.
        betas: Of AdamW.
    """

    muon_lr: float = 0.02
    adam_lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.8
    ema: float = 0.999
    betas: tuple[float, float] = (0.9, 0.99)


def split_parameters(
    model: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Named parameters for Muon (matrices inside ``blocks``, neither AdaLN's nor tables, and those of the attention
    ``mixing`` between them) and for AdamW (the rest).
    """
    muon: list[tuple[str, nn.Parameter]] = []
    adam: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and any(part in f".{name}" for part in (".blocks.", ".mixing."))
        hidden = inside and not any(part in name for part in ("modulation", "_bias", "gate"))
        (muon if hidden else adam).append((name, parameter))
    return muon, adam


def share(name: str, weight: Tensor) -> float:
    """Of AdamW's rate, for a weight.

    AdamW moves every weight by about its rate, whatever the gradient. What a map of n steady inputs gives out moves by
    n of these in every step: of such maps the rate falls with n (muP, arXiv 2203.03466). At the whole rate the loss of
    the decoder alone rose twentyfold every few hundred steps (docs/experiments/2026-11-27-fifteenth-pong.md).

    What is added to the logits of a softmax says little until it differs by whole units, which at the rate of a weight
    no run was long enough for (docs/experiments/2026-11-27-seventeenth-pong.md): biases of age move faster. And so do
    the vectors that tell of rewards: each is asked for in one frame of some hundreds, and moves in no other.
    """
    if name.endswith("decoder.reward.weight"):
        return _OF_REWARDS
    if name.endswith("age_bias"):
        return _OF_LOGITS
    steady = weight.ndim == 2 and any(part in name for part in STEADY) and not name.startswith("heads.")
    return min(1.0, 16 / weight.shape[1]) if steady else 1.0


class Optimizer:
    """Both optimisers behind one ``step``; its state is a flat dict of tensors."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        muon, adam = split_parameters(model)
        if not config.muon_lr:
            muon, adam = [], muon + adam
        standard = [name for name, part in model.named_modules() if getattr(part, "standard", None) is not None]
        varied = {f"{name}.patches.weight" for name in standard}  # they see no background

        def part_of(name: str, weight: Tensor) -> float:
            return 1.0 if name in varied else share(name, weight)

        self._held: list[tuple[torch.optim.Optimizer, float, list[str]]] = []
        if muon:
            dtype = pick_dtype(None, muon[0][1].device)
            groups, names = _grouped(muon)
            mover: torch.optim.Optimizer = Muon(groups, dtype, lr=config.muon_lr, weight_decay=config.weight_decay)
            self._held.append((mover, config.muon_lr, names))
        for part in sorted({part_of(*one) for one in adam}, reverse=True):
            named = [(name, p) for name, p in adam if part_of(name, p) == part]
            rate, (groups, names) = part * config.adam_lr, _grouped(named)
            mover = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, betas=config.betas, fused=True)
            self._held.append((mover, rate, names))

    def step(self, scale: float, *, decoder: float = 1.0) -> None:
        """Apply the gradients, then clear them.

        Args:
            scale: Of the configured rates.
            decoder: And of the decoder's, but for what it makes of contexts.
        """
        for optimizer, rate, _ in self._held:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale * (decoder if group["decoder"] else 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Momenta and counters by ``<optimizer>.<kind>.<parameter>``."""
        state = {}
        for i, (optimizer, _, names) in enumerate(self._held):
            for name, parameter in zip(names, _weights(optimizer), strict=True):
                for kind, value in optimizer.state.get(parameter, {}).items():
                    state[f"{i}.{kind}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` gave."""
        for i, (optimizer, _, names) in enumerate(self._held):
            parameters = dict(zip(names, _weights(optimizer), strict=True))
            optimizer.state.clear()
            for key, value in state.items():
                place, kind, name = key.split(".", 2)
                if int(place) == i:
                    # Adam's step counter stays on the CPU's side of a fused step only where its parameter is.
                    optimizer.state[parameters[name]][kind] = value.to(parameters[name].device, copy=True)


def _grouped(named: list[tuple[str, nn.Parameter]]) -> tuple[list[dict[str, Any]], list[str]]:
    """An optimiser's groups, the decoder's apart, and the names of all of their weights in order."""
    parts: dict[bool, list[tuple[str, nn.Parameter]]] = {False: [], True: []}
    for name, weight in named:
        parts[name.startswith("decoder.") and not name.startswith("decoder.context.")].append((name, weight))
    groups = [{"params": [weight for _, weight in one], "decoder": key} for key, one in parts.items() if one]
    return groups, [name for one in parts.values() for name, _ in one]


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def schedule(step: int, steps: int, config: OptimizerConfig) -> float:
    """Warm-up, stable, linear decay: the multiple of the learning rates at a step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = (steps - step) / max(1.0, config.decay * steps)
    return min(warm, 1.0, max(0.0, left))


@torch.no_grad()
def update_ema(average: Iterable[Tensor], weights: Iterable[Tensor], step: int, decay: float) -> None:
    """``average <- d average + (1 - d) weights`` with d = min(decay, (1 + step) / (10 + step))."""
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), list(weights), 1 - d)
