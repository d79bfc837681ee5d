"""What recorded play teaches a policy before it dreams, one file: ``python -m worldsim.agents.offline``.

Advantage-weighted regression (arXiv 1910.00177): the critic learns what was still won and lost after each recorded
moment, the actor copies recorded actions, those that went better than the critic expected more than others. Nobody
takes a step in the real game for it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.agents.policy import STACK, Policy, PolicyConfig
from worldsim.agents.recorded import play_of
from worldsim.agents.runs import PolicyRun
from worldsim.data.episodes import Dataset, Episode, EpisodeInfo
from worldsim.engine.precision import pick_device
from worldsim.envs.observation import grey
from worldsim.errors import MissingExtra, RunError
from worldsim.settings import command, from_dict, home
from worldsim.world import load_world


@dataclass(frozen=True)
class OfflineConfig:
    """What ``configs/offline.yaml`` explains.

    Attributes:
        world: Whose actions and frames the policy is for.
        data, run: Recorded play, and the folder that is written to.
        steps, batch, lr: Of Adam.
        gamma: Discount of a decision.
        temperature: Advantages weigh by ``exp(advantage / temperature)``, in standard deviations of theirs; beta in the
            paper. None: all alike, which is behaviour cloning, for demonstrations.
        cap: Of these weights.
        sampling_temperature: Of the actions that the saved policy draws. A copy of demonstrations is unsure in moments
            that it got itself into, and each action that nobody would take leads to more of them.
        behaviours: Kinds of play whose actions are copied; None: all. The critic learns from all.
        frames: Recorded ones at most, the first; they are in memory, a byte a pixel.
        action_repeat: Ticks that the policy will hold an action.
        seed, device, threads, save_seconds: How it runs.
    """

    world: str
    data: Path | None = None
    run: Path | None = None
    steps: int = 8000
    batch: int = 256
    lr: float = 1e-3
    gamma: float = 0.99
    temperature: float | None = 1.0
    cap: float = 10.0
    sampling_temperature: float = 1.0
    behaviours: tuple[str, ...] | None = None
    frames: int = 600_000
    action_repeat: int = 2
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    save_seconds: float = 60

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames", "action_repeat"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.temperature is not None and self.temperature <= 0 or self.cap < 1:
            raise RunError(f"temperature must be above 0 and cap at least 1, not {self.temperature} and {self.cap}")
        if self.sampling_temperature <= 0:
            raise RunError(f"sampling_temperature must be above 0, not {self.sampling_temperature}")


def returns(rewards: NDArray[np.float32], gamma: float, repeat: int) -> NDArray[np.float32]:
    """What follows each tick, [T]: signs of rewards, discounted by ``gamma`` for every ``repeat`` ticks."""
    made, running, discount = np.zeros(len(rewards), np.float32), 0.0, gamma ** (1 / repeat)
    for t in reversed(range(len(rewards))):
        running = float(np.sign(rewards[t])) + discount * running
        made[t] = running
    return made


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of recorded play.

    Attributes:
        frames: Grey, uint8 [N, H, W], all episodes' one after the other.
        first: int64 [N], number of the first frame of each one's episode.
        at: int64 [M], the frames that an action follows.
        actions: int64 [M].
        returns: float32 [M].
        copied: bool [M], whether the actor is to copy the action.
    """

    frames: NDArray[np.uint8]
    first: NDArray[np.int64]
    at: NDArray[np.int64]
    actions: NDArray[np.int64]
    returns: NDArray[np.float32]
    copied: NDArray[np.bool_]

    @classmethod
    def of(cls, dataset: Dataset, episodes: tuple[EpisodeInfo, ...], config: OfflineConfig) -> Moments:
        """Of some episodes, as many as ``config.frames`` allows and at least one.

        Raises:
            RunError: no such behaviour was recorded.
        """
        wanted = config.behaviours or dataset.behaviours
        for name in wanted:
            if name not in dataset.behaviours:
                raise RunError(f"no behaviour {name!r} in {dataset.folder}: there are {', '.join(dataset.behaviours)}")
        kinds = [dataset.behaviours.index(name) for name in wanted]
        ends = np.cumsum([info.steps + 1 for info in episodes])
        taken = episodes[: max(1, int((ends <= config.frames).sum()))]
        frames: NDArray[np.uint8] | None = None  # made once, of its full size: it is most of the memory there is
        parts: dict[str, list[NDArray[np.generic]]]
        parts = {name: [] for name in cls.__dataclass_fields__ if name != "frames"}
        for info, end in zip(taken, ends, strict=False):
            episode: Episode = dataset.load(info)
            count = len(episode.frames)
            begin = int(end) - count
            if frames is None:
                frames = np.empty((int(ends[len(taken) - 1]), *episode.frames.shape[1:3]), np.uint8)
            for some in range(0, count, 1024):
                shades = grey(torch.from_numpy(episode.frames[some : some + 1024])).numpy()
                frames[begin + some : begin + some + len(shades)] = shades
            parts["first"].append(np.full(count, begin, np.int64))
            parts["at"].append(begin + np.arange(count - 1))
            parts["actions"].append(episode.actions.astype(np.int64))
            parts["returns"].append(returns(episode.rewards, config.gamma, config.action_repeat))
            parts["copied"].append(np.isin(episode.behaviour, kinds))
        assert frames is not None
        return cls(frames, **{name: np.concatenate(held) for name, held in parts.items()})  # type: ignore[arg-type]

    def stacks(self, chosen: NDArray[np.int64], repeat: int) -> NDArray[np.uint8]:
        """What a policy sees at some moments, uint8 [n, 4, H, W]: this frame and those of the decisions before."""
        now = self.at[chosen]
        back = now[:, None] - repeat * np.arange(STACK - 1, -1, -1)
        seen: NDArray[np.uint8] = self.frames[np.maximum(back, self.first[now][:, None])]
        return seen


class Learner:
    """One training: moments, policy, optimiser, and how it goes on after a stop."""

    def __init__(self, config: OfflineConfig) -> None:
        self.config, self.world = config, load_world(config.world)
        self.device = pick_device(config.device)
        self.folder = config.run or home() / "agents" / f"{self.world.name}-offline"
        dataset = play_of(self.world, config.data)
        self.moments = Moments.of(dataset, dataset.train, config)
        self.held_out = Moments.of(dataset, dataset.held_out, config) if dataset.held_out else None
        c = self.world.config.model
        told = PolicyConfig(
            world=self.world.name,
            fingerprint=self.world.fingerprint,
            obs_type="gray",
            shape=(STACK, c.height, c.width),
            actions=tuple(self.world.actions.names),
            action_repeat=config.action_repeat,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = Policy(told).to(self.device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.lr, eps=1e-5)
        self.run = PolicyRun(self.folder, self.policy, self.optimizer)
        self._begin()

    def _begin(self) -> None:
        """Settings of a new run, or the state of one that goes on."""
        free = ("data", "run", "device", "threads", "save_seconds", "sampling_temperature")
        told = {key: value for key, value in asdict(self.config).items() if key not in free}
        facts = self.run.begin(told | {"fingerprint": self.world.fingerprint})
        self.step, self.spread = (int(facts["step"]), float(facts["spread"])) if facts else (0, 1.0)

    def save(self) -> None:
        """Write state and policy, atomically."""
        drawn = self.policy.sharpened(self.config.sampling_temperature)
        self.run.save({"step": self.step, "spread": self.spread}, {"offline_steps": self.step}, drawn)

    def train(self) -> None:
        """Learn to the last step; batch number k is the same whether the run was stopped or not."""
        try:
            from torch.utils.tensorboard import SummaryWriter
            from tqdm import tqdm
        except ImportError as error:
            raise MissingExtra("tensorboard", "train") from error
        config = self.config
        writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)  # type: ignore[no-untyped-call]
        bar, saved = tqdm(total=config.steps, initial=self.step, unit="step", mininterval=5), time.monotonic()
        while self.step < config.steps:
            rng = np.random.default_rng((config.seed, self.step))
            told = self._update(rng.integers(len(self.moments.at), size=config.batch))
            self.step += 1
            bar.update()
            last = self.step == config.steps
            if self.step % 100 == 0 or last:
                for name, value in told.items():
                    writer.add_scalar(f"loss/{name}", value, self.step)  # type: ignore[no-untyped-call]
                bar.set_postfix_str(" ".join(f"{name} {value:.3f}" for name, value in told.items()))
            if self.step % 1000 == 0 or last:
                for name, value in self.judge().items():
                    writer.add_scalar(f"held_out/{name}", value, self.step)  # type: ignore[no-untyped-call]
                    print(f"\nstep {self.step}: held-out {name} {value:.3f}", flush=True)
            if time.monotonic() - saved > config.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        bar.close()
        writer.close()  # type: ignore[no-untyped-call]

    def _update(self, chosen: NDArray[np.int64]) -> dict[str, float]:
        """One batch: the critic's regression to returns, and the actor's to weighted actions."""
        config, m = self.config, self.moments
        seen, actions, wanted, copied = self._batch(m, chosen)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * (1 - self.step / config.steps)
        logits, value = self.policy(seen)
        gain = (wanted - value).detach()
        self.spread += 0.01 * (float(gain.std()) - self.spread)
        weight = copied
        if config.temperature is not None:
            weight = (gain / (config.temperature * self.spread)).exp().clamp(max=config.cap) * copied
        actor = (weight * F.cross_entropy(logits, actions, reduction="none")).sum() / weight.sum().clamp(min=1e-6)
        critic = F.mse_loss(value, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        (actor + 0.5 * critic).backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        return {"actor": float(actor.detach()), "critic": float(critic.detach())}

    @torch.no_grad()
    def judge(self, count: int = 4096) -> dict[str, float]:
        """On held-out play: how often the likeliest action is the one taken, and the share of returns explained."""
        if self.held_out is None:
            return {}
        rng = np.random.default_rng(self.config.seed)
        seen, actions, wanted, copied = self._batch(self.held_out, rng.integers(len(self.held_out.at), size=count))
        logits, value = map(torch.cat, zip(*(self.policy(some) for some in seen.split(512)), strict=True))
        agreed = (logits.argmax(-1) == actions).float()
        return {
            "agreement": float((agreed * copied).sum() / copied.sum().clamp(min=1)),
            "explained": float(1 - (wanted - value).var() / wanted.var().clamp(min=1e-8)),
        }

    def _batch(self, moments: Moments, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        held = moments.actions[chosen], moments.returns[chosen], moments.copied[chosen].astype(np.float32)
        stacks = moments.stacks(chosen, self.config.action_repeat)
        seen, actions, wanted, copied = (torch.from_numpy(one).to(self.device) for one in (stacks, *held))
        return seen, actions, wanted, copied


@command("offline")
def main(settings: dict[str, object]) -> None:
    """Learn a policy from recorded play alone."""
    config = from_dict(OfflineConfig, settings)
    if config.threads:
        torch.set_num_threads(config.threads)
    learner = Learner(config)
    learner.train()
    print(f"{learner.folder / 'policy.safetensors'}: go on in the dream, python -m worldsim.agents.ppo init=<file>")


if __name__ == "__main__":
    import sys

    sys.exit(main())
