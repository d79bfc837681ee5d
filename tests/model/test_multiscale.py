"""Attention at two scales: what each branch sees, what it costs, and that a world of it plays like any other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from worldsim.engine.cache import MultiScaleCache, RingCache, make_cache
from worldsim.engine.session import Session
from worldsim.model.config import ModelConfig, MultiScaleConfig
from worldsim.model.multiscale import MultiScaleAttention, attention_flops
from worldsim.model.world_model import WorldModel
from worldsim.world import World, load_world, save_world

HOW = MultiScaleConfig(near=3, cone=0.5, pool=2, stride=4)
SHAPE = ModelConfig(3, 64, 64, 8, dim=32, heads=4, encoder_layers=2, decoder_layers=1, window=13, multiscale=HOW)
FRAMES, PLACE = 20, 3 * 8 + 4  # a place in the middle of 8x8


def attention(layer: int, branch: str) -> MultiScaleAttention:
    """With heads of one branch alone, and without the convolution that reads a token's neighbours."""
    torch.manual_seed(0)
    made = MultiScaleAttention(SHAPE, layer).eval()
    with torch.no_grad():
        made.conv.weight.zero_()
        made.gate.weight[:, :2] = float(branch == "near")
        made.gate.weight[:, 2:] = float(branch == "far")
    return made


def traces(made: MultiScaleAttention) -> Tensor:
    """Which frames and places of a clip reach a place of its last frame, bool [T, rows, columns]."""
    x = torch.randn(1, FRAMES, SHAPE.tokens, SHAPE.dim, generator=torch.Generator().manual_seed(1)).requires_grad_()
    made(x, torch.zeros(1, FRAMES, dtype=torch.int64))[0, -1, PLACE].square().sum().backward()
    assert x.grad is not None
    return (x.grad[0].abs().sum(-1) > 0).view(FRAMES, 8, 8)


def test_the_fine_branch_sees_a_cone_that_widens_into_the_past() -> None:
    seen = traces(attention(0, "near"))
    assert not seen[: FRAMES - 3].any()
    for ago, reach in ((0, 1), (1, 1), (2, 2)):
        wanted = torch.zeros(8, 8, dtype=torch.bool)
        wanted[3 - reach : 4 + reach, 4 - reach : 5 + reach] = True
        assert torch.equal(seen[FRAMES - 1 - ago], wanted), ago


@pytest.mark.parametrize("layer", [0, 1])
def test_the_coarse_branch_sees_all_of_strided_frames(layer: int) -> None:
    seen = traces(attention(layer, "far")).flatten(1)
    shown = [t for t in range(FRAMES) if seen[t].any()]
    assert shown == [8, 12, 16, 19]  # of 19: itself, and every fourth frame less than 13 ago
    assert seen[shown].all()


def test_the_deeper_half_of_the_blocks_pools_more() -> None:
    assert [MultiScaleAttention(SHAPE, layer).places for layer in (0, 1)] == [16, 4]


def test_gates_weigh_the_branches_by_the_noise_a_frame_is_said_to_have() -> None:
    made, x = attention(0, "near"), torch.randn(1, 4, SHAPE.tokens, SHAPE.dim)
    with torch.no_grad():
        made.gate.weight[1] = 0.0
    said = made(x, torch.tensor([[0, 1, 0, 0]]))[0].flatten(1).abs().sum(1)
    assert said[1] == 0 and (said[[0, 2, 3]] > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_operations_are_those_of_the_formula(layer: int) -> None:
    """MSC's complexity, section 3.2: measured as one more frame is seen."""
    made, slots = MultiScaleAttention(SHAPE, layer), HOW.slots(SHAPE.window)
    model = WorldModel(SHAPE).eval()
    cache = MultiScaleCache(model, 1)
    told = (torch.zeros(1, dtype=torch.int64), cache.keys[layer], cache.values[layer], cache.bias())
    with FlopCounterMode(display=False) as counter:
        made.step(torch.zeros(1, SHAPE.tokens, SHAPE.dim), *told)
    convolution = 2 * 9 * SHAPE.tokens * SHAPE.dim
    formula = attention_flops(SHAPE, layer, slots)
    needed = formula.pop("near, needed")
    assert counter.get_total_flops() == convolution + sum(formula.values())
    assert needed < formula["near"]


def test_a_long_memory_takes_less_than_one_ring_does() -> None:
    long = ModelConfig(3, dim=32, heads=4, window=64, multiscale=MultiScaleConfig())
    plain = ModelConfig(3, dim=32, heads=4, window=16)
    assert MultiScaleCache(WorldModel(long), 1).keys.numel() < RingCache(WorldModel(plain), 1).keys.numel()


def test_rows_of_different_ages_keep_their_own_slots() -> None:
    model = WorldModel(SHAPE)
    cache = MultiScaleCache(model, 2)
    frame = torch.ones(2, 2, 2 * (64 + 16), 8)
    for t in range(6):
        if t == 3:
            cache.reset([1])
        cache.write(frame * (t + 1), frame * (t + 1))
    assert cache.ages().tolist() == [[2, 1, 6, 2, 0], [1, 2, 3, 0, 0]]
    near = cache.keys[0, :, : cache.near_slots * 2 * 64].view(2, 2, 2, 64, 8)
    assert near[:, 0, :, 0, 0].tolist() == [[5.0, 6.0], [6.0, 5.0]]
    far = cache.keys[:, :, cache.near_slots * 2 * 64 :, 0]
    assert far[0, 0].view(2, 3, 16)[:, :, 0].tolist() == [[1.0, 5.0, 0.0]] * 2
    assert far[1, 1, : 2 * 3 * 4].view(2, 3, 4)[:, :, 3].tolist() == [[4.0, 0.0, 0.0]] * 2


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    sizes = {"height": 32, "width": 32, "heads": 4, "window": 13, "encoder_layers": 3, "multiscale": HOW}
    return make_world(seed=2, **sizes)


@pytest.mark.parametrize("backend", ["eager", "torchscript"])
def test_a_session_goes_on_from_a_snapshot_to_the_bit(world: World, backend: str) -> None:
    session = Session(world, 2, dtype="float32", backend=backend, seed=5)
    session.reset()
    actions = np.array([1, 2])
    for tick in range(9):
        session.step(actions)
        if tick == 4:
            session.reset([1])
    state = session.snapshot()
    first = [session.step(actions)[0].copy() for _ in range(8)]
    session.restore(state)
    again = [session.step(actions)[0].copy() for _ in range(8)]
    np.testing.assert_array_equal(first, again)


def test_backends_agree(world: World) -> None:
    made = []
    for backend in ("eager", "torchscript"):
        session = Session(world, 1, dtype="float32", backend=backend, seed=5)
        session.reset()
        made.append([session.step(np.array([t % 3]))[0].astype(int) for t in range(20)])
    assert np.abs(np.array(made[0]) - made[1]).max() <= 1


def test_a_world_of_two_scales_is_saved_like_any(world: World, tmp_path) -> None:
    save_world(world, tmp_path / "two")
    again = load_world(tmp_path / "two")
    assert again.config == world.config
    assert isinstance(make_cache(again.model, 1), MultiScaleCache)


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"heads": 3, "dim": 48}, "model.heads must be even"),
        ({"window": 2}, "at least multiscale.near=3"),
        ({"multiscale": MultiScaleConfig(pool=3)}, "squares of 6"),
    ],
)
def test_what_does_not_fit_is_said(told: dict[str, object], error: str) -> None:
    sizes = {"num_actions": 3, "dim": 32, "heads": 4, "window": 13, "multiscale": HOW}
    with pytest.raises(ValueError, match=error):
        ModelConfig(**sizes | told)


def test_a_stride_of_one_is_no_stride() -> None:
    with pytest.raises(ValueError, match="stride of at least 2"):
        MultiScaleConfig(stride=1)


@pytest.mark.parametrize("layer", [0, 1])
def test_weights_are_shares_of_the_frames_that_are_seen(layer: int) -> None:
    torch.manual_seed(3)
    made, x = MultiScaleAttention(SHAPE, layer), torch.randn(2, FRAMES, SHAPE.tokens, SHAPE.dim)
    with torch.no_grad():
        weights = made.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, SHAPE.tokens, 4, FRAMES))
    looked = weights[0, PLACE, :, -1] > 0  # [h, T]
    for head in (0, 1):
        assert looked[head].nonzero().flatten().tolist() == [17, 18, 19]
    for head in (2, 3):
        assert looked[head].nonzero().flatten().tolist() == [8, 12, 16, 19]
