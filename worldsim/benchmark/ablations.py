"""The tick's optimisations, each of which a cell can go ``without``: what each is worth is measured, not told.

Each function here takes one optimisation out of an eager session by putting the plain way of computing the same numbers
in its place. They patch classes, so they are for a process of their own (:mod:`worldsim.benchmark.worker`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from worldsim.engine import fold
from worldsim.engine.backends.eager import Eager
from worldsim.engine.cache import RingCache, slot_ages
from worldsim.engine.fold import FoldedSpatial, FoldedTemporal
from worldsim.engine.memory import Memory
from worldsim.engine.parts import DecodePart
from worldsim.engine.sampler import sample
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.model.attention import attend

__all__ = ["ABLATIONS", "go_without"]


def _modulation_table(session: Session) -> None:
    """AdaLN of every level and action looked up, not computed: a third of the decoder's weights is not read."""

    def forward(self: DecodePart, noise: Tensor, scene: Tensor, action: Tensor) -> Tensor:
        def denoise(x: Tensor, t: float) -> Tensor:
            levels = torch.full((len(x),), t, device=x.device)
            modulations = session.model.modulations(levels, action)
            return self.decoder.denoise(x.to(scene.dtype), scene, modulations).float()

        return sample(denoise, noise, self.levels)

    DecodePart.forward = forward  # type: ignore[method-assign]


def _folding(session: Session) -> None:
    """Gains, skips and sums of embeddings folded into the weights, not computed every tick."""
    session.model = session.world.model_on(session.device, session.dtype)
    session._memory = Memory(session.model, session.batch, session.world.config.context_level)
    session._started[:] = False
    session.adopt(session.make_parts(Eager()))


def _few_kernel_norm(session: Session) -> None:
    """RMSNorm in three kernels, in place, instead of PyTorch's composite with a float32 copy."""

    def unit(x: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=eps) * x.shape[-1] ** -0.5

    fold.unit = unit


def _fused_attention(session: Session) -> None:
    """Attention within a frame by PyTorch's fused kernel instead of product, softmax, product."""

    def mix(self: FoldedSpatial, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query * query.shape[-1] ** 0.5, key, value)

    FoldedSpatial.mix = mix  # type: ignore[method-assign]


def _float32_ring(session: Session) -> None:
    """The ring in float32: its products are too small for bfloat16 to pay on a CPU."""
    cache = session._memory.cache
    cache.keys, cache.values = cache.keys.to(session.dtype), cache.values.to(session.dtype)


def _joined_scores(session: Session) -> None:
    """The present's score beside those of the ring, instead of its key and value beside a copy of the ring."""

    def mix(
        self: FoldedTemporal, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        whole_keys, whole_values = (
            torch.cat((past, now.unsqueeze(-2)), -2) for past, now in ((keys, key), (values, value))
        )
        whole_bias = F.pad(bias, (0, 1)).unsqueeze(-2)  # [B, h, 1, 1, W]
        query = query.unsqueeze(-2) * query.shape[-1] ** 0.5
        return attend(query, whole_keys, whole_values, whole_bias.to(keys.dtype)).squeeze(-2)

    FoldedTemporal.mix = mix  # type: ignore[method-assign]


def _bias_table(session: Session) -> None:
    """The age bias of every state of the ring computed once, not every tick."""

    def bias(self: RingCache, *, by_row: bool = False) -> Tensor:
        ages = torch.tensor([slot_ages(int(n), self.slots) for n in self.written], device=self.keys.device)
        return self._model.ring_bias(ages).to(self.keys.dtype)

    RingCache.bias = bias  # type: ignore[method-assign]


ABLATIONS: dict[str, Callable[[Session], None]] = {
    "folding": _folding,
    "modulation_table": _modulation_table,
    "few_kernel_norm": _few_kernel_norm,
    "fused_attention": _fused_attention,
    "float32_ring": _float32_ring,
    "joined_scores": _joined_scores,
    "bias_table": _bias_table,
}


def go_without(session: Session, name: str) -> None:
    """Take one optimisation out of a session, and out of all others of this process.

    Raises:
        WorldsimError: there is no such optimisation, or the session does not run eagerly.
    """
    if name not in ABLATIONS:
        raise WorldsimError(f"without is {name!r}: there is {', '.join(ABLATIONS)}")
    if session.backend != "eager":
        raise WorldsimError(f"without={name} takes an optimisation out of backend=eager, not of {session.backend}")
    ABLATIONS[name](session)
