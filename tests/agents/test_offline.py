"""A policy from recorded play alone, and dreams that begin in recorded play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.agents import offline
from worldsim.agents.offline import Learner, Moments, OfflineConfig, returns
from worldsim.agents.policy import load_policy
from worldsim.agents.ppo import Learner as Dreamer
from worldsim.agents.ppo import PPOConfig
from worldsim.agents.recorded import Starts
from worldsim.data.episodes import Dataset
from worldsim.envs.observation import grey
from worldsim.errors import RunError
from worldsim.world import load_world


def settings(world: Path, data: Dataset, run: Path, **more: Any) -> dict[str, Any]:
    return {"world": str(world), "data": data.folder, "run": run, "batch": 8, "steps": 6} | more


def test_returns_are_what_follows_discounted_by_decisions() -> None:
    rewards = np.array([0, 0, 2.0, 0, -1.0], np.float32)  # signs count
    d = 0.9**0.5
    np.testing.assert_allclose(returns(rewards, 0.9, 2), [d**2 - d**4, d - d**3, 1 - d**2, -d, -1], rtol=1e-6)


def test_a_policy_sees_the_frames_of_the_decisions_before(pong_data: Dataset) -> None:
    config = OfflineConfig("pong")
    moments = Moments.of(pong_data, pong_data.train, config)
    second = pong_data.load(pong_data.train[1])
    shades = grey(torch.from_numpy(second.frames)).numpy()
    at = pong_data.train[0].steps  # the first moment of the second episode
    late, early = moments.stacks(np.array([at + 20, at + 3]), 2)
    np.testing.assert_array_equal(late, shades[[14, 16, 18, 20]])
    np.testing.assert_array_equal(early, shades[[0, 0, 1, 3]])
    assert moments.actions[at + 20] == second.actions[20]
    few = Moments.of(pong_data, pong_data.train, OfflineConfig("pong", frames=150))
    assert len(few.frames) == pong_data.train[0].steps + 1


def test_only_wanted_play_is_copied_and_all_play_is_valued(pong_data: Dataset) -> None:
    moments = Moments.of(pong_data, pong_data.train, OfflineConfig("pong", behaviours=("scripted",)))
    played = np.concatenate([pong_data.load(info).behaviour for info in pong_data.train])
    np.testing.assert_array_equal(moments.copied, played == pong_data.behaviours.index("scripted"))
    with pytest.raises(RunError, match="no behaviour 'brilliant'"):
        Moments.of(pong_data, pong_data.train, OfflineConfig("pong", behaviours=("brilliant",)))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    whole = Learner(OfflineConfig(**settings(tiny_world_folder, pong_data, tmp_path / "whole")))
    whole.train()
    config = OfflineConfig(**settings(tiny_world_folder, pong_data, tmp_path / "parts"))
    first = Learner(config)
    for step in range(3):
        rng = np.random.default_rng((config.seed, step))
        first._update(rng.integers(len(first.moments.at), size=config.batch))
        first.step += 1
    first.save()
    second = Learner(config)
    assert second.step == 3
    second.train()
    for name, weight in whole.policy.state_dict().items():
        torch.testing.assert_close(second.policy.state_dict()[name], weight, rtol=0, atol=0)
    policy, facts = load_policy(tmp_path / "parts" / "policy.safetensors")
    assert facts == {"offline_steps": 6} and policy.config.obs_type == "gray"
    with pytest.raises(RunError, match="begun with gamma=0.99, not 0.5"):
        Learner(OfflineConfig(**settings(tiny_world_folder, pong_data, tmp_path / "parts", gamma=0.5)))


@pytest.mark.parametrize("temperature", [0.5, None])
def test_what_went_better_is_copied_more_unless_all_is_copied_alike(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path, temperature: float | None
) -> None:
    """The same picture, two actions as often as each other, one of which leads to a point and one to its loss."""
    more = {"batch": 16, "steps": 60, "lr": 1e-3, "temperature": temperature}
    learner = Learner(OfflineConfig(**settings(tiny_world_folder, pong_data, tmp_path / "run", **more)))
    learner.moments = Moments(
        frames=learner.moments.frames[:1],
        first=np.zeros(1, np.int64),
        at=np.zeros(2, np.int64),
        actions=np.array([2, 3]),
        returns=np.array([1.0, -1.0], np.float32),
        copied=np.ones(2, bool),
    )
    learner.held_out = None
    learner.train()
    seen = torch.from_numpy(learner.moments.stacks(np.zeros(1, np.int64), 2))
    logits, value = learner.policy(seen)
    chances = logits.softmax(-1)[0]
    assert chances[2:4].sum() > 0.95
    if temperature is None:
        assert 0.3 < chances[2] < 0.7
    else:
        assert chances[2] > 0.8 and chances[3] < 0.2
    assert value.detach().abs().item() < 0.3


def test_a_saved_policy_draws_at_its_temperature_and_the_run_goes_on_with_its_own(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path
) -> None:
    told = {"tiny_world_folder": tiny_world_folder, "pong_data": pong_data, "run": tmp_path / "run"}
    plain = Learner(OfflineConfig(**settings(*told.values())))
    plain.train()
    seen = torch.from_numpy(plain.moments.stacks(np.arange(5), 2))
    logits, values = plain.policy(seen)
    again = Learner(OfflineConfig(**settings(*told.values(), sampling_temperature=0.5)))
    again.train()  # it is at its last step: nothing but the policy's file is made anew
    torch.testing.assert_close(again.policy(seen)[0], logits, rtol=0, atol=0)
    drawn, same = load_policy(tmp_path / "run" / "policy.safetensors")[0](seen)
    torch.testing.assert_close(drawn, 2 * logits)
    torch.testing.assert_close(same, values)
    with pytest.raises(RunError, match="sampling_temperature must be above 0"):
        OfflineConfig("pong", sampling_temperature=0)


def test_other_play_is_refused(tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path, tiny_world: Any) -> None:
    with pytest.raises(RunError, match="does not show what 'tiny' does: record with size=\\[16,24\\]"):
        Starts(tiny_world, pong_data.folder, 2)
    assert offline.main([f"world={tiny_world_folder}", f"data={pong_data.folder}", "temperature=0"]) == 2


def test_a_dream_begins_in_recorded_play_with_the_policy_that_it_left(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path
) -> None:
    Learner(OfflineConfig(**settings(tiny_world_folder, pong_data, tmp_path / "offline", steps=2))).train()
    init = tmp_path / "offline" / "policy.safetensors"
    small = {"envs": 3, "rollout": 4, "minibatches": 2, "epochs": 1, "max_episode_steps": 2, "total_steps": 24}
    told = {"world": str(tiny_world_folder), "init": init, "starts": "recorded", "data": pong_data.folder} | small
    dreamer = Dreamer(PPOConfig(run=tmp_path / "ppo", obs_type="gray", **told))
    begun = {name: weight.clone() for name, weight in dreamer.policy.state_dict().items()}
    for name, weight in load_policy(init)[0].state_dict().items():
        assert torch.equal(begun[name], weight)
    starts = Starts(load_world(tiny_world_folder), pong_data.folder, 2)
    moments, seen = starts.draw(np.random.default_rng((0, 0)), 3)
    dreamer._rng = np.random.default_rng((0, 0))
    assert torch.equal(dreamer._begin_rows(None, seed=0), seen)
    assert torch.equal(grey(dreamer.env.session.shown), seen[:, -1])
    np.testing.assert_array_equal(dreamer.env.session.frames, np.stack([one.frames[-1] for one in moments]))
    assert dreamer.env.session.snapshot().since.tolist() == [one.since for one in moments]
    dreamer.train()
    assert dreamer.steps == 24 and any(
        not torch.equal(begun[name], weight) for name, weight in dreamer.policy.state_dict().items()
    )
    assert load_policy(tmp_path / "ppo" / "policy.safetensors")[1] == {"offline_steps": 2, "steps": 24}
    with pytest.raises(RunError, match="has obs_type=gray, not latent"):
        Dreamer(PPOConfig(run=tmp_path / "other", obs_type="latent", **told))
    with pytest.raises(RunError, match="starts is episode or recorded"):
        PPOConfig("tiny", starts="anywhere")
