"""Folded for playing: the same function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from worldsim.engine.cache import RingCache
from worldsim.engine.fold import fold, model_to_play
from worldsim.model.world_model import WorldModel
from worldsim.world import World


def shaken(world: World) -> WorldModel:
    """A model whose gains and biases are not their first ones and zeros."""
    model = world.model
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim < 2 or (weight == 0).all():
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        for block in model.encoder.blocks:
            block.time.age_bias.add_(torch.randn(block.time.age_bias.shape, generator=generator))
    return model


@pytest.mark.parametrize("size", [{}, {"extrapolated": 0}, {"margin": 0, "extrapolated": 0}])
def test_folded_it_is_the_same_function(make_world: Callable[..., World], size: dict[str, int]) -> None:
    model = shaken(make_world(**size))
    folded, c = fold(model), model.config
    generator = torch.Generator().manual_seed(1)
    caches = RingCache(model, 2), RingCache(folded, 2)
    views: list[torch.Tensor | None] = [None, None]
    with torch.inference_mode():
        for tick in range(2 * c.window):
            frames = torch.randint(0, 256, (2, c.height, c.width, 3), dtype=torch.uint8, generator=generator)
            action = torch.randint(0, c.num_actions, (2,), generator=generator)
            noise, level = torch.randn(2, c.tokens, c.patch_dim, generator=generator), torch.tensor([0, 3])
            told = []
            for k, (one, cache) in enumerate(zip((model, folded), caches, strict=True)):
                view = one.view(one.see(frames, torch.float32), views[k])
                context, key, value = one.encode_step(view, action, level, cache.keys, cache.values, cache.bias())
                cache.write(key, value)
                scene = one.scene(context, view)
                made = one.denoise(noise, scene, one.modulations(torch.tensor([1.0, 0.4]), action))
                views[k] = view
                told.append((context, key, value, made))
            for name, plain, fast in zip(("context", "key", "value", "frame"), *told, strict=True):
                torch.testing.assert_close(fast, plain, atol=3e-5, rtol=3e-5, msg=f"{name} at {tick}")


def test_the_trained_weights_are_left_alone_and_one_copy_is_shared(make_world: Callable[..., World]) -> None:
    world = make_world()
    before = {name: weight.clone() for name, weight in world.model.state_dict().items()}
    where = torch.device("cpu"), torch.float32
    played = model_to_play(world, *where)
    assert played is model_to_play(world, *where) and played is not world.model
    assert model_to_play(world, torch.device("cpu"), torch.bfloat16).decoder.out.weight.dtype == torch.bfloat16
    assert all(torch.equal(before[name], weight) for name, weight in world.model.state_dict().items())
    assert not any(weight.requires_grad for weight in played.parameters())
