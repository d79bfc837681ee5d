"""int8: the blocks' products in eight bits, traced as ``torchscript`` does; no compiler, no bfloat16 instructions.

Weights are rounded once, with a scale for each output; what they are multiplied with is rounded in each tick by its
own extremes (dynamic quantisation; FBGEMM, arXiv 2101.05615). All else stays float32: layers that pixels go through,
and an MLP's second layer, whose inputs are squares with a few large ones that leave no bits for the rest. Rounding that
too gave five times the error in the picture, and exactly one ball in .38 of Pong's frames instead of .46. PyTorch 2.13
says that a later one will lose these operators.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part
from worldsim.engine.backends.torchscript import TorchScript
from worldsim.engine.parts import EncodePart
from worldsim.errors import BackendError
from worldsim.model.attention import MLP, SpatialAttention, TemporalAttention
from worldsim.model.multiscale import MultiScaleAttention
from worldsim.model.token_decoder import TokenDecoder
from worldsim.model.world_model import WorldModel


class Int8Linear(nn.Module):
    """A linear layer whose product is in int8.

    Args:
        linear: In float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1).clamp_min(1e-12) / 127
        zero = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a later PyTorch will lose it
            packed = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(packed, None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:  # [..., in] -> [..., out]
        # Seven bits for x: AVX2 adds two products in sixteen bits, which eight would overflow.
        result: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, True)
        return result


class Int8:
    """One frozen trace a part, for fixed shapes, with its inner layers in int8."""

    name = "int8"
    fixed_shapes = True

    def __init__(self) -> None:
        self._traces = TorchScript()

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, rounded and traced; see :class:`~worldsim.engine.backends.Backend`."""
        if any(tensor.dtype == torch.bfloat16 for tensor in part.state_dict().values()):
            raise BackendError("backend 'int8' replaces float32, and this session computes in bfloat16: dtype=float32")
        return self._traces.prepare(rounded(part), example)


def rounded(part: nn.Module) -> nn.Module:
    """A copy of a part with the linear layers of its attention and the first ones of its MLPs in int8."""
    with torch.inference_mode(False), torch.no_grad():
        made = copy.deepcopy(part)
        for module in list(made.modules()):
            if isinstance(module, SpatialAttention | TemporalAttention | MultiScaleAttention | MLP):
                for name, layer in list(module.named_children()):
                    if isinstance(layer, nn.Linear) and name != "down":
                        setattr(module, name, Int8Linear(layer))
    return made


def rounds(model: WorldModel) -> bool:
    """Whether a tick runs any layer of a model that this backend rounds: convolutions are none, nor is what rests."""
    return EncodePart(model).sees or isinstance(model.decoder, TokenDecoder)


def make(device: torch.device) -> Int8:
    """For a CPU that PyTorch has int8 products for.

    Raises:
        BackendError: the device is another, or PyTorch was built without.
    """
    if device.type != "cpu":
        raise BackendError(f"backend 'int8' runs on device=cpu, not {device}: use backend=inductor")
    if torch.backends.quantized.engine in ("none", "qnnpack"):
        raise BackendError("this PyTorch has no int8 products for this processor: use backend=torchscript")
    return Int8()
