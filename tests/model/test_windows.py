"""Windows of space and time: what they compute is attention among the tokens of one window, no more and no less."""

from __future__ import annotations

import pytest
import torch

from worldsim.model.attention import attend
from worldsim.model.config import ModelConfig
from worldsim.model.designs import Design
from worldsim.model.windows import WindowAttention

SHAPE = ModelConfig(3, 64, 48, 8, dim=32, heads=2)  # 8x6 tokens: windows of 4x2
FRAMES = 6  # windows of 4: the second one lacks two


def windows_of(made: WindowAttention) -> torch.Tensor:
    """The window of each token of a clip, [T, rows, columns], told from its place alone."""
    number = torch.zeros(FRAMES, SHAPE.rows, SHAPE.columns, dtype=torch.int64)
    for axis, (size, shift) in enumerate(zip(made.size, made.shift, strict=True)):
        at = (torch.arange(number.shape[axis]) - shift).div(size, rounding_mode="floor")
        shape = [1, 1, 1]
        shape[axis] = -1
        number = number * 100 + at.view(shape)
    return number


@pytest.mark.parametrize("shifted", [False, True])
def test_tokens_see_those_of_their_window(shifted: bool) -> None:
    torch.manual_seed(0)
    made = WindowAttention(SHAPE, FRAMES, shifted).double().eval()
    assert made.size == (4, 4, 2) and made.shift == ((2, 2, 1) if shifted else (0, 0, 0))
    with torch.no_grad():
        made.place_bias.normal_()
    x = torch.randn(2, FRAMES, SHAPE.tokens, SHAPE.dim, dtype=torch.float64)
    number = windows_of(made).flatten()
    count = len(number)
    places = torch.cartesian_prod(*(torch.arange(n) for n in (FRAMES, SHAPE.rows, SHAPE.columns)))
    index = torch.zeros(count, count, dtype=torch.int64)
    for axis, size in enumerate(made.size):
        step = (places[:, None, axis] - places[None, :, axis]).clamp(1 - size, size - 1)
        index = index * (2 * size - 1) + step + size - 1
    bias = made.place_bias[index].permute(2, 0, 1)
    bias = bias.masked_fill(number[:, None] != number[None, :], -torch.inf)
    qkv = made.qkv(x.flatten(1, 2)).view(2, count, 3, 2, 16).permute(2, 0, 3, 1, 4)
    mixed = attend(made.query_norm(qkv[0]), made.key_norm(qkv[1]), qkv[2], bias)
    wanted = made.out(mixed.transpose(1, 2).reshape(2, count, 32)).view_as(x)
    torch.testing.assert_close(made(x), wanted, rtol=0, atol=1e-6)


def test_two_windows_shift_what_one_block_can_see() -> None:
    """With plain windows alone nothing crosses a border; the shifted ones carry it over."""
    plain, shifted = (windows_of(WindowAttention(SHAPE, FRAMES, one)) for one in (False, True))
    across = plain[0, 3, 0] != plain[0, 4, 0] and shifted[0, 3, 0] == shifted[0, 4, 0]
    assert across and plain[3, 0, 0] != plain[4, 0, 0] and shifted[3, 0, 0] == shifted[4, 0, 0]


def test_a_design_of_windows_has_as_many_parameters_as_the_others() -> None:
    sizes = ModelConfig(3)
    whole, parts = (Design.parse(name).make(sizes) for name in ("stream:4", "stream-windows:4"))
    ratio = sum(p.numel() for p in parts.parameters()) / sum(p.numel() for p in whole.parameters())
    assert ratio == pytest.approx(1, abs=0.01)
