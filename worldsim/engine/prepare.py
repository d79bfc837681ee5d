"""From a backend's name to the three callables that a session's ticks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.engine.backends import Backend, Part, load_backend
from worldsim.engine.cache import Cache
from worldsim.engine.parts import DecodePart, EncodePart, OutcomePart
from worldsim.model.world_model import WorldModel


@dataclass(frozen=True)
class Parts:
    """What a backend made of the arithmetic of a tick; see :mod:`worldsim.engine.parts`.

    Attributes:
        backend: Who made it.
        levels: Noise levels of ``decode``.
        decode, encode, outcome: Take and give what their modules do.
    """

    backend: Backend
    levels: tuple[float, ...]
    decode: Part
    encode: Part
    outcome: Part


@torch.inference_mode()
def prepare_parts(
    backend: str | Backend,
    model: WorldModel,
    levels: Sequence[float],
    cache: Cache,
    noise: Tensor,
    view: Tensor,
    context: Tensor,
    made: Parts | None = None,
) -> Parts:
    """Have a backend prepare a tick.

    Args:
        backend: A name of :data:`~worldsim.engine.backends.BACKENDS`, or one made already.
        model: Whose tick.
        levels: Noise levels, see :func:`~worldsim.engine.sampler.levels`.
        cache, noise, view, context: The session's, as examples of what will come; nothing is written.
        made: Parts of the same session; with the same backend only ``decode`` is made anew.

    Raises:
        BackendError: there is no such backend, or it cannot be used here.
    """
    c, device = model.config, view.device
    action = torch.zeros(cache.batch, dtype=torch.int64, device=device)
    if made is not None and backend in (made.backend, made.backend.name):
        loaded, encode, outcome = made.backend, made.encode, made.outcome
    else:
        loaded = load_backend(backend, device) if isinstance(backend, str) else backend
        frames = torch.zeros(cache.batch, c.height, c.width, 3, dtype=torch.uint8, device=device)
        bias = cache.bias(by_row=loaded.fixed_shapes)
        memory = action, action, cache.keys, cache.values, bias  # bucket 0 is an example of a level
        encode = loaded.prepare(EncodePart(model).eval(), (frames, view, *memory))
        outcome = loaded.prepare(OutcomePart(model).eval(), (context, view, action))
    scene = view.new_zeros(cache.batch, *c.scene_shape)
    decode = loaded.prepare(DecodePart(model, levels).eval(), (noise.to(device), scene, action))
    return Parts(loaded, tuple(levels), decode, encode, outcome)
