"""The tick's optimisations, each of which a cell can go ``without``: what each is worth is measured, not told.

Each function here takes one optimisation out of an eager session by putting the plain way of computing the same numbers
in its place. They patch classes, so they are for a process of their own (:mod:`worldsim.benchmark.worker`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.engine.cache import RingCache, slot_ages
from worldsim.engine.parts import DecodePart, EncodePart
from worldsim.engine.sampler import sample
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.model.attention import RMSNorm, SpatialAttention, TemporalAttention, attend
from worldsim.model.encoder import CausalEncoder

__all__ = ["ABLATIONS", "go_without"]


def _modulation_table(session: Session) -> None:
    """AdaLN of every level and cue looked up, not computed: a third of the decoder's weights is not read."""

    def forward(self: DecodePart, noise: Tensor, scene: Tensor, cue: Tensor) -> Tensor:
        def denoise(x: Tensor, t: float) -> Tensor:
            levels = torch.full((len(x),), t, device=x.device)
            size = torch.full((len(x),), 1 / (len(self.levels) - 1), device=x.device)
            modulations = session.model.modulations(levels, cue, size)
            return self.decoder.denoise(x.to(scene.dtype), scene, modulations).float()

        return sample(denoise, noise, self.levels)

    DecodePart.forward = forward  # type: ignore[method-assign]


def _few_kernel_norm(session: Session) -> None:
    """RMSNorm in five kernels, in place, instead of PyTorch's composite with a float32 copy."""
    RMSNorm.forward = nn.RMSNorm.forward  # type: ignore[method-assign]


def _fused_attention(session: Session) -> None:
    """Attention within a frame by PyTorch's fused kernel instead of product, softmax, product."""
    for module in session.model.modules():
        if isinstance(module, SpatialAttention):
            module.training = True  # which is how it is trained


def _float32_ring(session: Session) -> None:
    """The ring in float32: its products are too small for bfloat16 to pay on a CPU."""
    cache = session._memory.cache
    cache.keys, cache.values = cache.keys.to(session.dtype), cache.values.to(session.dtype)


def _joined_scores(session: Session) -> None:
    """The present's score beside those of the ring, instead of its key and value beside a copy of the ring."""

    def step(
        self: TemporalAttention, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, length, dim = x.shape
        qkv = self.qkv(x).view(b, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = self.query_norm(query).to(keys.dtype), self.key_norm(key).to(keys.dtype)
        value = value.to(keys.dtype)
        whole_keys, whole_values = (
            torch.cat((past, now.unsqueeze(-2)), -2) for past, now in ((keys, key), (values, value))
        )
        now_bias = self.age_bias[:, :1, None, None].to(bias.dtype)  # [h, 1, 1, 1]
        past_bias = bias[:, :, :1, None]  # [B, h, 1, 1, W-1]
        whole_bias = torch.cat((past_bias, now_bias.expand(*past_bias.shape[:-1], 1)), -1).to(keys.dtype)
        if self.age_value is not None:
            told = torch.cat((bias[:, :, 1:].mT, self.age_value[None, :, :1].expand(len(bias), -1, -1, -1)), 2)
            rest = whole_values.shape[-1] - told.shape[-1]
            whole_values = whole_values + F.pad(told.to(keys.dtype), (0, rest))[:, :, None]
        mixed = attend(query.unsqueeze(-2), whole_keys, whole_values, whole_bias).squeeze(-2)
        return self.out(mixed.transpose(1, 2).reshape(b, length, dim).to(x.dtype)), key, value

    TemporalAttention.step = step  # type: ignore[method-assign]


def _bias_table(session: Session) -> None:
    """The age bias of every state of the ring computed once, not every tick."""

    def bias(self: RingCache, *, by_row: bool = False) -> Tensor:
        ages = torch.tensor([slot_ages(int(n), self.slots) for n in self.written], device=self.keys.device)
        return self._model.ring_bias(ages).to(self.keys.dtype)

    RingCache.bias = bias  # type: ignore[method-assign]


def _resting_encoder(session: Session) -> None:
    """An encoder in which nothing was learned is not run; one that sees is, with and without this."""
    CausalEncoder.sees = True  # type: ignore[method-assign, assignment]
    encode = session._parts.encode
    assert isinstance(encode, EncodePart)
    encode.sees = True


ABLATIONS: dict[str, Callable[[Session], None]] = {
    "modulation_table": _modulation_table,
    "few_kernel_norm": _few_kernel_norm,
    "fused_attention": _fused_attention,
    "float32_ring": _float32_ring,
    "joined_scores": _joined_scores,
    "bias_table": _bias_table,
    "resting_encoder": _resting_encoder,
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
