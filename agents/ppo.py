"""Proximal policy optimisation in a dream (PPO, arXiv 1707.06347), one file: ``python -m worldsim.agents.ppo``.

The agent takes no step in the real game. Advantages are those of arXiv 1506.02438; a row that is cut off rather than
over is bootstrapped from its last observation.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.agents.policy import Policy, PolicyConfig, Stack, load_policy
from worldsim.agents.recorded import Starts
from worldsim.agents.runs import PolicyRun
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import MissingExtra, RunError, WorldsimError
from worldsim.settings import command, from_dict, home
from worldsim.world import load_world


@dataclass(frozen=True)
class PPOConfig:
    """What ``configs/ppo.yaml`` explains.

    Attributes:
        world, run: Where to learn, and the folder that is written to.
        init: A policy's file to begin with, of the same shape, e.g. of ``python -m worldsim.agents.offline``.
        starts: Where episodes of the dream begin: ``"episode"``, as the world's own do, or ``"recorded"``, anywhere in
            recorded play: with a short ``max_episode_steps``, the dream is left before it drifts (as DIAMOND's,
            arXiv 2405.12399).
        data: That play.
        total_steps: Decisions over all rows.
        envs, rollout: Rows, and decisions of each between two updates.
        epochs, minibatches: Passes over a roll-out, and parts of each.
        lr, gamma, gae_lambda, clip, entropy, value, max_grad_norm: PPO's own, named as in the paper.
        obs_type, action_repeat, max_episode_steps: Of the environment; the last cuts episodes before drift adds up.
        denoising_steps, backend, device, dtype, threads, seed: How the dream runs.
        save_seconds: Between two checkpoints.
        keep: Policies kept along training, evenly spread, in ``policies/``: to see what was learned when.
    """

    world: str
    run: Path | None = None
    init: Path | None = None
    starts: str = "episode"
    data: Path | None = None
    total_steps: int = 1_000_000
    envs: int = 32
    rollout: int = 64
    epochs: int = 3
    minibatches: int = 4
    lr: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.1
    entropy: float = 0.01
    value: float = 0.5
    max_grad_norm: float = 0.5
    obs_type: str = "latent"
    action_repeat: int = 2
    max_episode_steps: int = 900
    denoising_steps: int | None = None
    backend: str = "eager"
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    seed: int = 0
    save_seconds: float = 60
    keep: int = 8

    def __post_init__(self) -> None:
        for name in ("total_steps", "envs", "rollout", "epochs", "minibatches", "max_episode_steps"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.starts not in ("episode", "recorded"):
            raise RunError(f"starts is episode or recorded, not {self.starts!r}")
        if self.envs * self.rollout % self.minibatches:
            raise RunError(f"minibatches={self.minibatches} does not divide envs x rollout: {self.envs * self.rollout}")


def advantages(
    rewards: Tensor, values: Tensor, over: Tensor, last: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns, both [T, N] (arXiv 1506.02438, equation 16).

    Args:
        rewards: [T, N]; where a row was cut off, with the discounted value of its last observation added.
        values: [T, N], of the observations before each action.
        over: bool [T, N], the row's episode ended with this step.
        last: [N], values of the observations after the last action.
        gamma, lam: Discount, and the weight of longer looks ahead.
    """
    made, running = torch.zeros_like(rewards), torch.zeros_like(last)
    following = torch.cat((values[1:], last[None]))
    for t in reversed(range(len(rewards))):
        goes_on = 1.0 - over[t].float()
        surprise = rewards[t] + gamma * following[t] * goes_on - values[t]
        running = surprise + gamma * lam * goes_on * running
        made[t] = running
    return made, made + values


class Learner:
    """One training: environment, policy, optimiser, and how it goes on after a stop."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.world = load_world(config.world)
        self.folder = config.run or home() / "agents" / self.world.name
        self.env = WorldVectorEnv(
            config.envs,
            self.world,
            steps=config.denoising_steps,
            action_repeat=config.action_repeat,
            max_episode_steps=config.max_episode_steps,
            obs_type=config.obs_type,
            autoreset_mode="Disabled",
            tensors=True,
            device=config.device,
            dtype=config.dtype,
            backend=config.backend,
        )
        shape = self.env.single_observation_space.shape
        assert shape is not None
        told = PolicyConfig(
            world=self.world.name,
            fingerprint=self.world.fingerprint,
            obs_type=config.obs_type,
            shape=(4, *shape) if config.obs_type == "gray" else shape,
            actions=tuple(self.world.actions.names),
            action_repeat=config.action_repeat,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = Policy(told).to(self.env.session.device)
        self._known: dict[str, Any] = {}  # of the policy that it began with
        if config.init is not None:
            self._take_over(config.init, told)
        recorded = config.starts == "recorded"
        self._starts = Starts(self.world, config.data, config.action_repeat) if recorded else None
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.lr, eps=1e-5)
        self.run = PolicyRun(self.folder, self.policy, self.optimizer)
        self._begin()

    def _take_over(self, init: Path, told: PolicyConfig) -> None:
        """The weights of another policy.

        Raises:
            RunError: it sees or does something else.
        """
        other, self._known = load_policy(init)
        mine, theirs = asdict(told), asdict(other.config)
        free = {"world", "fingerprint"} if told.obs_type != "latent" else set()
        for name, value in mine.items():
            if name not in free and theirs[name] != value:
                raise RunError(f"{init} has {name}={theirs[name]}, not {value}: name another init=")
        self.policy.load_state_dict(other.state_dict())

    def _begin(self) -> None:
        """Settings of a new run, or the state of one that goes on."""
        free = ("run", "init", "data", "total_steps", "backend", "device", "dtype", "threads", "save_seconds", "keep")
        told = {key: value for key, value in asdict(self.config).items() if key not in free}
        facts = self.run.begin(told | {"fingerprint": self.world.fingerprint})
        self.steps = int(facts["steps"]) if facts else 0

    def save(self) -> None:
        """Write state and policy, atomically."""
        self.run.save({"steps": self.steps}, self._known | {"steps": self.steps})

    def _keep(self, before: int) -> None:
        """Put the policy aside if a further part of the training is done."""
        done, total = (steps * self.config.keep // self.config.total_steps for steps in (before, self.steps))
        if total > done:
            file = self.folder / "policies" / f"step_{self.steps:010d}.safetensors"
            self.policy.save(file, **self._known | {"steps": self.steps})

    def train(self) -> None:
        """Roll out and update in turns to the last step. It goes on where it stopped, in fresh episodes."""
        try:
            from torch.utils.tensorboard import SummaryWriter
            from tqdm import tqdm
        except ImportError as error:
            raise MissingExtra("tensorboard", "train") from error
        config, env = self.config, self.env
        generator = torch.Generator(env.session.device).manual_seed(config.seed + self.steps)
        writer: Any = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.steps)  # type: ignore[no-untyped-call]
        self._rng = np.random.default_rng((config.seed, self.steps))
        self._observation = self._begin_rows(None, seed=config.seed + self.steps)
        self._returns, self._lengths = np.zeros(config.envs), np.zeros(config.envs, int)
        started = saved = time.monotonic()
        began = self.steps
        bar = tqdm(total=config.total_steps, initial=self.steps, unit="step", mininterval=5)
        while self.steps < config.total_steps:
            batch, finished = self._roll_out(generator)
            scalars = self._update(batch, generator)
            self.steps += config.rollout * config.envs
            self._keep(self.steps - config.rollout * config.envs)
            bar.update(config.rollout * config.envs)
            if finished:
                scalars["episode/return"] = float(np.mean([total for total, _ in finished]))
                scalars["episode/length"] = float(np.mean([length for _, length in finished]))
                bar.set_postfix_str(f"return {scalars['episode/return']:.2f} of {len(finished)}")
            scalars["steps_per_second"] = (self.steps - began) / (time.monotonic() - started)
            for name, number in scalars.items():
                writer.add_scalar(name, number, self.steps)
            if time.monotonic() - saved > config.save_seconds or self.steps >= config.total_steps:
                self.save()
                saved = time.monotonic()
        bar.close()
        writer.close()

    @torch.no_grad()
    def _roll_out(self, generator: torch.Generator) -> tuple[dict[str, Tensor], list[tuple[float, int]]]:
        """``rollout`` decisions of every row, [T, N, ...] by name, and (return, length) of the episodes that ended."""
        config = self.config
        store: dict[str, list[Tensor]] = {name: [] for name in ("seen", "action", "logp", "value", "reward", "over")}
        finished: list[tuple[float, int]] = []
        for _ in range(config.rollout):
            logits, value = self.policy(self._observation)
            action = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
            logp = logits.log_softmax(-1).gather(-1, action[:, None]).squeeze(-1)
            seen = self._observation.clone()
            given, reward, terminated, truncated, infos = self.env.step(action)
            over, reward = terminated | truncated, reward.float()
            ended = over.cpu().numpy()
            self._returns += reward.cpu().numpy()
            self._lengths += 1
            finished += [(float(self._returns[row]), int(self._lengths[row])) for row in np.flatnonzero(ended)]
            self._returns[ended], self._lengths[ended] = 0, 0
            self._observation = self._next(given)
            cut = torch.nonzero(truncated & ~terminated).flatten()
            if len(cut):  # cut off rather than over: what would have come is what the critic says
                reward[cut] += config.gamma * self.policy(self._observation[cut])[1]
            for name, one in zip(store, (seen, action, logp, value, reward, over), strict=True):
                store[name].append(one)
            if ended.any():
                self._observation = self._begin_rows(ended)
        batch = {name: torch.stack(parts) for name, parts in store.items()}
        last = self.policy(self._observation)[1]
        gains, targets = advantages(
            batch["reward"], batch["value"], batch["over"], last, config.gamma, config.gae_lambda
        )
        return batch | {"gain": gains, "target": targets}, finished

    def _update(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, float]:
        """The clipped surrogate objective (equations 7 and 9), over shuffled parts of the roll-out."""
        config = self.config
        flat = {name: value.flatten(0, 1) for name, value in batch.items()}
        count = len(flat["gain"])
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * max(0.0, 1 - self.steps / config.total_steps)
        sums: dict[str, float] = {}
        for _ in range(config.epochs):
            order = torch.randperm(count, generator=generator, device=flat["gain"].device)
            for rows in order.split(count // config.minibatches):
                part_of = {name: value[rows] for name, value in flat.items()}
                logits, value = self.policy(part_of["seen"])
                logs = logits.log_softmax(-1)
                ratio = (logs.gather(-1, part_of["action"][:, None]).squeeze(-1) - part_of["logp"]).exp()
                gain = (part_of["gain"] - part_of["gain"].mean()) / (part_of["gain"].std() + 1e-8)
                actor = -torch.minimum(ratio * gain, ratio.clamp(1 - config.clip, 1 + config.clip) * gain).mean()
                critic = F.mse_loss(value, part_of["target"]) / 2
                entropy = -(logs.exp() * logs).sum(-1).mean()
                self.optimizer.zero_grad(set_to_none=True)
                (actor + config.value * critic - config.entropy * entropy).backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
                self.optimizer.step()
                clipped = ((ratio.detach() - 1).abs() > config.clip).float().mean()
                for name, one in {"actor": actor, "critic": critic, "entropy": entropy, "clipped": clipped}.items():
                    sums[f"loss/{name}"] = sums.get(f"loss/{name}", 0.0) + float(one.detach())
        return {name: total / (config.epochs * config.minibatches) for name, total in sums.items()}

    def _begin_rows(self, ended: NDArray[np.bool_] | None, seed: int | None = None) -> Tensor:
        """Start rows over, or all; observations of all rows."""
        rows = list(range(self.config.envs)) if ended is None else np.flatnonzero(ended).tolist()
        options: dict[str, Any] = {} if ended is None else {"reset_mask": ended}
        seen: Tensor | None = None
        if self._starts:
            options["start"], seen = self._starts.draw(self._rng, len(rows))
        given: Tensor = self.env.reset(seed=seed, options=options)[0]
        if self.config.obs_type != "gray":
            return given
        if ended is None:
            self._stack = Stack(given)
        return self._stack.begin(rows, given[rows] if seen is None else seen)

    def _next(self, given: Tensor) -> Tensor:
        return self._stack.push(given) if self.config.obs_type == "gray" else given


@command("ppo")
def main(settings: dict[str, Any]) -> None:
    """Learn a policy in a dream."""
    config = from_dict(PPOConfig, settings)
    if config.obs_type not in ("latent", "gray"):
        raise WorldsimError(f"obs_type {config.obs_type!r} is not one of latent, gray")
    if config.threads:
        torch.set_num_threads(config.threads)
    learner = Learner(config)
    learner.train()
    print(f"{learner.folder / 'policy.safetensors'}: judge it with `python -m worldsim.agents.evaluate policy=<file>`")


if __name__ == "__main__":
    import sys

    sys.exit(main())
