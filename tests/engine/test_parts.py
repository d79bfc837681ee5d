"""What a tick need not compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldsim.engine.parts import EncodePart
from worldsim.engine.session import Session
from worldsim.model.encoder import CausalEncoder, EncoderBlock
from worldsim.world import World


def test_an_encoder_that_does_not_see_gives_its_contexts_without_its_blocks(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_world(seed=3).model
    assert model.encoder.sees and EncodePart(model).sees
    model.encoder.rest()
    assert not model.encoder.sees
    c, chance = model.config, torch.Generator().manual_seed(0)
    frames = torch.randint(256, (2, c.height, c.width, 3), generator=chance, dtype=torch.uint8)
    before = torch.randn(2, c.tokens, c.view_dim, generator=chance)
    head = c.encoder_layers, 2, c.heads, c.tokens, c.window - 1, c.dim // c.heads
    keys, values = torch.randn(head, generator=chance), torch.randn(head, generator=chance)
    bias = model.ring_bias(torch.arange(1, c.window).repeat(2, 1))
    given = frames, before, torch.tensor([0, 1]), torch.tensor([0, c.context_levels - 1]), keys, values, bias
    part = EncodePart(model)
    part.sees = True
    with torch.no_grad():
        context, view, scene, key, value = part(*given)
        monkeypatch.setattr(EncoderBlock, "step", None)  # it would not be called
        quick = EncodePart(model)(*given)
    for ours, theirs in zip(quick[:3], (context, view, scene), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert quick[3].shape == key.shape and quick[4].shape == value.shape and not quick[3].any()
    with torch.no_grad():
        model.encoder.patches.bias[0] = 1.0
    assert model.encoder.sees, "it is looked at, though no block adds anything"


def test_a_session_dreams_as_if_it_were_asked(make_world: Callable[..., World]) -> None:
    world = make_world(seed=3)
    world.model.encoder.rest()

    def dream(sees: bool) -> NDArray[np.uint8]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CausalEncoder, "sees", sees)
            session = Session(world, 2, seed=0, dtype="float32", backend="eager")
        session.reset()
        frames = np.stack([session.step(np.array([tick % 3, 1]))[0] for tick in range(8)])
        session.close()
        return frames

    np.testing.assert_allclose(dream(False).astype(int), dream(True).astype(int), atol=1)
