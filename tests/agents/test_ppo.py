"""An agent that learns in a dream: its arithmetic, its files, and what it sees in the real game."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from worldsim.agents import evaluate, ppo
from worldsim.agents.episodes import EpisodesConfig, Play, play_real
from worldsim.agents.evaluate import JudgeConfig, judge, summary
from worldsim.agents.policy import Policy, PolicyConfig, Stack, Watcher, load_policy
from worldsim.agents.ppo import Learner, PPOConfig, advantages
from worldsim.envs.sources import load_source, make_source
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import RunError, WorldsimError
from worldsim.world import World

SMALL: dict[str, Any] = {"envs": 2, "rollout": 6, "minibatches": 2, "epochs": 1, "max_episode_steps": 4}


def test_advantages_are_the_discounted_sums_of_surprises() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.rand(7, 3, generator=generator), torch.rand(7, 3, generator=generator)
    last, over = torch.rand(3, generator=generator), torch.rand(7, 3, generator=generator) < 0.3
    gamma, lam = 0.9, 0.8
    made, targets = advantages(rewards, values, over, last, gamma, lam)
    for row in range(3):
        for t in range(7):
            total, weight = 0.0, 1.0
            for k in range(t, 7):
                end = bool(over[k, row])
                following = 0.0 if end else float(values[k + 1, row] if k < 6 else last[row])
                total += weight * (float(rewards[k, row]) + gamma * following - float(values[k, row]))
                weight *= gamma * lam
                if end:
                    break
            assert float(made[t, row]) == pytest.approx(total, abs=1e-5)
    torch.testing.assert_close(targets, made + values)


@pytest.mark.parametrize("obs_type", ["latent", "gray"])
def test_it_trains_saves_and_goes_on(tiny_world_folder: Path, tmp_path: Path, obs_type: str) -> None:
    settings = SMALL | {"world": str(tiny_world_folder), "run": tmp_path / "run", "obs_type": obs_type}
    learner = Learner(PPOConfig(**settings, total_steps=24))
    before = {name: weight.clone() for name, weight in learner.policy.state_dict().items()}
    learner.train()
    assert learner.steps == 24
    assert any(not torch.equal(before[name], weight) for name, weight in learner.policy.state_dict().items())
    policy, facts = load_policy(tmp_path / "run" / "policy.safetensors")
    assert facts == {"steps": 24} and policy.config.obs_type == obs_type
    for name, weight in policy.state_dict().items():
        assert torch.equal(weight, learner.policy.state_dict()[name])
    again = Learner(PPOConfig(**settings, total_steps=48))
    assert again.steps == 24
    mine, theirs = (one.optimizer.state_dict()["state"] for one in (again, learner))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[i][kind], theirs[i][kind]) for i in theirs for kind in theirs[i])
    again.train()
    assert again.steps == 48
    with pytest.raises(RunError, match="begun with gamma=0.99, not 0.5"):
        Learner(PPOConfig(**settings, gamma=0.5))


def test_it_finds_the_action_that_is_rewarded(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The dream's own reward is replaced by one for action 2: what is under test is the learning."""
    monkeypatch.setattr(ppo, "load_world", lambda _: make_world())
    settings = {"envs": 8, "rollout": 16, "lr": 3e-3, "max_episode_steps": 8}
    learner = Learner(PPOConfig("tiny", tmp_path / "run", total_steps=4096, **settings))  # type: ignore[arg-type]
    step = learner.env.step

    def rewarding(actions: Any) -> Any:
        given = step(actions)
        return given[0], (actions == 2).to(torch.float64), *given[2:]

    monkeypatch.setattr(learner.env, "step", rewarding)
    learner.train()
    observation, _ = learner.env.reset(seed=99)
    chance = learner.policy(observation)[0].softmax(-1)[:, 2]
    assert chance.min() > 0.9


def test_cut_off_rows_are_bootstrapped_from_their_last_observation(
    tiny_world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ppo, "load_world", lambda _: tiny_world)
    learner = Learner(PPOConfig("tiny", tmp_path / "run", **SMALL))
    with torch.no_grad():
        learner.policy.critic.weight.zero_()
        learner.policy.critic.bias.fill_(5.0)
    learner._observation = learner._begin_rows(None, seed=0)
    learner._returns, learner._lengths = np.zeros(2), np.zeros(2, int)
    batch, finished = learner._roll_out(torch.Generator().manual_seed(0))
    assert [length for _, length in finished] == [4, 4]
    assert batch["over"].nonzero().tolist() == [[3, 0], [3, 1]]
    torch.testing.assert_close(batch["reward"][3], torch.full((2,), 0.99 * 5.0))
    assert not batch["reward"][[0, 1, 2, 4, 5]].any()


def test_a_stack_begins_anew_where_an_episode_does() -> None:
    first, second = torch.full((2, 4, 4), 1, dtype=torch.uint8), torch.full((2, 4, 4), 2, dtype=torch.uint8)
    stack = Stack(first)
    stack.push(second)
    begun = stack.begin([1], second[:1])
    assert begun[:, :, 0, 0].tolist() == [[1, 1, 1, 2], [2, 2, 2, 2]]
    four = torch.arange(4, dtype=torch.uint8)[None, :, None, None].expand(1, 4, 4, 4)
    assert stack.begin([0], four)[:, :, 0, 0].tolist() == [[0, 1, 2, 3], [2, 2, 2, 2]]


def test_the_real_game_is_seen_as_the_dream_is(tiny_world: World) -> None:
    """A watcher that is shown a dream's frames and actions has the tokens that the dream itself had."""
    env = WorldVectorEnv(2, tiny_world, obs_type="latent", dtype="float32")
    start = tiny_world.starts[0]
    observation, _ = env.reset(seed=0, options={"start": start.name})
    config = PolicyConfig("tiny", tiny_world.fingerprint, "latent", observation.shape[1:], ("a", "b", "c"))
    watcher = Watcher(tiny_world, config, 2, dtype="float32")
    watcher.watch(np.stack([start.frames[0]] * 2), None)
    for frame, action in zip(start.frames[1:], start.actions, strict=True):
        watcher.watch(np.stack([frame] * 2), np.array([action] * 2))
    np.testing.assert_allclose(watcher.observe(env.session.frames), observation, atol=1e-4)
    for number in range(12):
        actions = np.array([number % 3, (number + 1) % 3])
        observation = env.step(actions)[0]
        watcher.watch(env.session.frames, actions)
        np.testing.assert_allclose(watcher.observe(env.session.frames), observation, atol=1e-4)
    with pytest.raises(WorldsimError, match="train it anew"):
        Watcher(tiny_world, PolicyConfig("tiny", "other", "latent", (4, 4, 32), ("a",)), 2)


def test_returns_are_summed_up_with_an_interval() -> None:
    told = summary(np.array([1.0, 2.0, 3.0, 10.0]))
    assert told["mean"] == 4 and told["median"] == 2.5 and told["episodes"] == 4
    low, high = told["mean_interval_95"]
    assert 1 <= low < 4 < high <= 10


@pytest.mark.parametrize("obs_type", ["latent", "gray"])
def test_a_policy_plays_the_dream_and_the_real_game(tiny_world_folder: Path, tmp_path: Path, obs_type: str) -> None:
    pytest.importorskip("ale_py")
    run = tmp_path / "run"
    settings = SMALL | {"world": str(tiny_world_folder), "run": run, "obs_type": obs_type}
    Learner(PPOConfig(**settings, total_steps=12)).train()
    code = evaluate.main(
        [f"policy={run}/policy.safetensors", f"world={tiny_world_folder}", "source=pong", "episodes=2", "max_steps=70",
         f"out={tmp_path}/report.json", f"film={tmp_path}/game.gif"]
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0 and report["steps"] == 12
    assert len(report["dream"]["returns"]) == 2
    for place in ("dream", "real"):
        ok, film = cv2.imreadanimation(str(tmp_path / f"game-{place}.gif"))
        assert ok and len(film.frames) > 60 and film.frames[0].shape[:2] == (480, 480)
    # In the real game the opponent has scored once within 140 ticks.
    assert all(-2 <= total <= 0 for total in report["real"]["returns"]) and min(report["real"]["returns"]) < 0


def test_real_games_begin_with_different_numbers_of_no_ops(tiny_world: World) -> None:
    pytest.importorskip("ale_py")

    def ticks(noops: int) -> list[int]:
        sources, counts = [make_source(load_source("pong")) for _ in range(6)], [0] * 6
        for row, source in enumerate(sources):

            def step(action: int, row: int = row, real: Any = source.step) -> Any:
                counts[row] += 1
                return real(action)

            source.step = step  # type: ignore[method-assign]
        how = EpisodesConfig(max_steps=1, noops=noops, seed=5)
        play_real(sources, lambda *_: np.zeros(6, np.int64), Play(tiny_world, how))
        return [count - 1 for count in counts]

    assert ticks(0) == [0] * 6
    begun = ticks(30)
    assert begun == ticks(30) and len(set(begun)) > 3
    assert min(begun) >= 1 and max(begun) <= 30


def test_scripted_and_random_players_are_judged_too() -> None:
    pytest.importorskip("ale_py")
    for name in ("scripted", "random", "scripted:average"):
        told = judge(JudgeConfig(name, source="pong", episodes=2, max_steps=40, seed=3))
        assert len(told["real"]["returns"]) == len(told["dream"]["returns"]) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"policy": "nothing.safetensors"}, "not a whole policy"),
    ({"policy": "chess:grandmaster"}, "not a whole policy"),
    ({"policy": "random", "film": Path("game.avi")}, "must end in"),
]


@pytest.mark.parametrize(("given", "word"), BAD)
def test_what_cannot_be_judged_is_told(tiny_world_folder: Path, given: dict[str, Any], word: str) -> None:
    with pytest.raises(WorldsimError, match=word):
        judge(JudgeConfig(**{"world": str(tiny_world_folder)} | given))


def test_impossible_settings_are_told(tmp_path: Path) -> None:
    for settings, word in (({"envs": 0}, "envs"), ({"minibatches": 7}, "does not divide")):
        with pytest.raises(RunError, match=word):
            PPOConfig("pong", **settings)  # type: ignore[arg-type]
    for settings, word in (({"episodes": 0}, "episodes"), ({"where": ("moon",)}, "moon")):
        with pytest.raises(WorldsimError, match=word):
            JudgeConfig("random", **settings)  # type: ignore[arg-type]
    with pytest.raises(WorldsimError, match="latent"):
        Policy(PolicyConfig("w", "f", "rgb", (2,), ("a",)))
