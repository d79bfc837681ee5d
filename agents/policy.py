"""A policy network, what it is fed in the dream and in the real game alike, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.checkpoint import write_atomically
from worldsim.engine.cache import make_cache
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.envs.observation import Observer, grey
from worldsim.errors import WorldsimError
from worldsim.model.trail import after
from worldsim.schema import from_dict
from worldsim.world import World

STACK = 4  # grey frames that a policy sees at once
PATCH, CHANNELS = 8, 64  # of them: pixels along a side, and numbers that are made of each
CONTRAST = 40.0  # grey levels that become 1


@dataclass(frozen=True)
class PolicyConfig:
    """What a policy was trained on, and its shape; it travels with the weights.

    Attributes:
        world: Name of the world.
        fingerprint: Of its weights. A policy on the tokens of one world's encoder is of no use with another's.
        obs_type: ``"latent"`` (tokens of the encoder) or ``"gray"`` (the last four frames).
        shape: Of one observation.
        actions: Names of the actions, in order.
        action_repeat: Ticks an action is held.
        width: Of the hidden layers.
    """

    world: str
    fingerprint: str
    obs_type: str
    shape: tuple[int, ...]
    actions: tuple[str, ...]
    action_repeat: int = 2
    width: int = 256


def _layer(layer: nn.Linear | nn.Conv2d, scale: float = math.sqrt(2)) -> nn.Module:
    nn.init.orthogonal_(layer.weight, scale)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Policy(nn.Module):
    """Actor and critic on one body: an MLP, on the encoder's tokens or on patches of the stacked frames.

    Of grey frames their mean is taken away: what moves is a few pixels on a bright field. With that and a norm behind
    the patches a policy learns recorded play in minutes of which the convolutions of the DQN paper, on pixels over
    255, had hardly begun to learn (docs/experiments/2026-11-22-twelfth-pong.md).
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        if config.obs_type == "latent":
            self.body = nn.Sequential(
                nn.Flatten(),
                _layer(nn.Linear(math.prod(config.shape), config.width)),
                nn.LayerNorm(config.width),
                nn.ReLU(),
                _layer(nn.Linear(config.width, config.width)),
                nn.ReLU(),
            )
        elif config.obs_type == "gray":
            rows, columns = (-(-side // PATCH) for side in config.shape[1:])
            self.body = nn.Sequential(
                _layer(nn.Conv2d(STACK, CHANNELS, PATCH, PATCH)),
                nn.ReLU(),
                nn.Flatten(),
                _layer(nn.Linear(CHANNELS * rows * columns, config.width)),
                nn.LayerNorm(config.width),
                nn.ReLU(),
                _layer(nn.Linear(config.width, config.width)),
                nn.ReLU(),
            )
        else:
            raise WorldsimError(f"a policy sees 'latent' or 'gray', not {config.obs_type!r}")
        self.actor = _layer(nn.Linear(config.width, len(config.actions)), 0.01)
        self.critic = _layer(nn.Linear(config.width, 1), 1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, actions] and values [N] of observations [N, ...]."""
        seen = observations.float()
        if self.config.obs_type == "gray":
            height, width = seen.shape[-2:]
            seen = (seen - seen.mean((1, 2, 3), keepdim=True)) / CONTRAST
            seen = F.pad(seen, (0, -width % PATCH, 0, -height % PATCH))
        features = self.body(seen)
        return self.actor(features), self.critic(features).squeeze(-1)

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions int64 [N]: drawn with a generator, without one the likeliest."""
        logits, _ = self(observations)
        if generator is None:
            return logits.argmax(-1)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)

    def sharpened(self, temperature: float) -> Policy:
        """A copy that draws its actions at this temperature: below 1, likely ones more often."""
        copy = deepcopy(self)
        with torch.no_grad():
            for weight in copy.actor.parameters():
                weight.div_(temperature)
        return copy

    def save(self, path: Path, **facts: Any) -> None:
        """Write weights, config and further facts, atomically."""
        held = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        write_atomically(path, save(held, {"worldsim-policy": json.dumps({"config": asdict(self.config), **facts})}))


def load_policy(path: Path) -> tuple[Policy, dict[str, Any]]:
    """A policy and the facts it was saved with.

    Raises:
        WorldsimError: not a policy's file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["worldsim-policy"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        policy = Policy(from_dict(PolicyConfig, facts.pop("config")))
        policy.load_state_dict(weights)
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as error:
        raise WorldsimError(f"{path} is not a whole policy: train one, python -m worldsim.agents.ppo") from error
    return policy.eval(), facts


class Stack:
    """The last grey frames of every row, uint8 [N, 4, H, W]; of a row that begins, its first frame four times."""

    def __init__(self, first: Tensor) -> None:
        self.frames = first[:, None].repeat(1, STACK, 1, 1)

    def push(self, frames: Tensor) -> Tensor:
        """Take the next frames [N, H, W]."""
        self.frames = torch.cat((self.frames[:, 1:], frames[:, None]), 1)
        return self.frames

    def begin(self, rows: Sequence[int], frames: Tensor) -> Tensor:
        """Start rows over: with their first frames [n, H, W], or with four of each [n, 4, H, W]."""
        four = frames if frames.ndim == 4 else frames[:, None].expand(-1, STACK, -1, -1)
        self.frames = self.frames.clone()
        self.frames[list(rows)] = four.to(self.frames.device)
        return self.frames


class Watcher:
    """Turns real frames into what a policy was trained on: grey stacks, or the tokens of the world's own encoder.

    Args:
        world: Whose encoder.
        policy: What it is for.
        rows: Games side by side.
        device, dtype: Of the encoder.

    Raises:
        WorldsimError: the policy was trained on another world's tokens.
    """

    def __init__(
        self, world: World, policy: PolicyConfig, rows: int, device: str = "cpu", dtype: str | None = None
    ) -> None:
        if policy.obs_type == "latent" and policy.fingerprint != world.fingerprint:
            raise WorldsimError(f"the policy sees with another {world.name!r} than this one: train it anew")
        self._device = pick_device(device)
        self._dtype = pick_dtype(dtype, self._device)
        self._model = world.model_on(self._device, self._dtype)
        self._observer = Observer(world, policy.obs_type)
        self._latent = policy.obs_type == "latent"
        self._cache = make_cache(self._model, rows)
        self._level = torch.full((rows,), world.config.context_level, device=self._device)
        self._view: Tensor | None = None
        self._stack: Stack | None = None

    @torch.inference_mode()
    def watch(self, frames: NDArray[np.uint8], actions: NDArray[np.int64] | None) -> None:
        """See frames [N, H, W, 3] that followed from actions [N]; ``None`` for the first frames of all rows."""
        shown = torch.from_numpy(frames)
        if not self._latent:
            return  # grey frames are stacked by decision, not by tick
        model = self._model
        if actions is None:
            self._trail = torch.full_like(self._level, model.no_action)
        else:
            self._trail = after(self._trail, torch.from_numpy(actions).to(self._device), model.config)
        self._view = model.view(model.see(shown.to(self._device), self._dtype), self._view)
        cache = self._cache
        told = self._view, self._trail, self._level
        context, key, value = model.encode_step(*told, cache.keys, cache.values, cache.bias())
        cache.write(key, value)
        self._context = context

    def observe(self, frames: NDArray[np.uint8]) -> Tensor:
        """Observations [N, ...] for the next decision, of the frames that were watched last."""
        if self._latent:
            return self._observer.pool(self._context)
        shades = grey(torch.from_numpy(frames))
        if self._stack is None:
            self._stack = Stack(shades)
            return self._stack.frames
        return self._stack.push(shades)
