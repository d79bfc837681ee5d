"""Modules computed in a number format of their own, compiled where that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


class Computer:
    """Modules called in ``dtype``, with the gradient going to their float32 weights."""

    def __init__(self, dtype: torch.dtype, compiled: bool) -> None:
        self.dtype, self.compiled = dtype, compiled

    def call(self, module: nn.Module, *given: Any) -> Any:
        """``module(*given)`` with its weights in ``dtype``."""
        weights = {name: value.to(self.dtype) for name, value in module.named_parameters()}
        return functional_call(module, weights, given)

    def computed(self, module: nn.Module, *, gradient: bool = True) -> Callable[..., Any]:
        """The module as a function of its inputs alone, see :meth:`call` and :meth:`built`."""

        def compute(*given: Any) -> Any:
            return self.call(module, *given)

        return self.built(compute if gradient else torch.no_grad()(compute))

    def built(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled if that is wanted."""
        # Each of its few shapes by itself: code for any shape is slower.
        return torch.compile(function, dynamic=False) if self.compiled else function
