"""Rewards on real play, read as a session reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldsim.evaluation import outcome
from worldsim.evaluation.bars import bars
from worldsim.evaluation.subject import Subject
from worldsim.world import World


def lively(subject: Subject) -> Subject:
    """The same world with outcome heads whose answers differ from frame to frame."""
    world = subject.world
    torch.manual_seed(0)
    model = type(world.model)(world.config.model).eval()
    model.load_state_dict(world.model.state_dict())
    frames = subject.dataset.load(subject.dataset.held_out[0]).frames
    with torch.no_grad():
        model.heads.context.weight.normal_(std=1)
        model.heads.pool.weights.weight.normal_(std=2)
        patches = model.patchify(torch.from_numpy(frames)[None]).float() / 127.5 - 1
        still = torch.zeros(1, len(frames), dtype=torch.int64)
        views = model.views(patches)
        outcome_logits = model.outcome(model.encode(views, still, still), views, still + 1)
        for head, logits in zip((model.heads.reward, model.heads.end), outcome_logits, strict=True):
            head.bias -= logits.mean((0, 1))  # no class is the answer to every frame
    other = World(world.config, world.actions, model.requires_grad_(False), world.starts)
    return Subject(other, subject.dataset, subject.source, subject.extent, subject.settings, quiet=True)


def test_predictions_are_those_of_the_full_forward_pass_tick_by_tick(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = lively(subject)
    model = changed.world.model
    episodes = [changed.dataset.load(info) for info in changed.dataset.held_out]
    monkeypatch.setattr(outcome, "STRETCH", 10_000)
    rewards, ends, chances = outcome.predict(changed, episodes)
    for episode, said, over, chance in zip(episodes, rewards, ends, chances, strict=True):
        patches = model.patchify(torch.from_numpy(episode.frames)[None]).float() / 127.5 - 1
        previous = torch.tensor([[model.no_action, *episode.actions.tolist()]])
        with torch.inference_mode():
            views = model.views(patches)
            context = model.encode(views, previous, torch.zeros_like(previous))
            # The frame after tick t tells its reward; the heads hear what they said of the tick before.
            told, wanted = torch.ones(1, dtype=torch.int64), []
            for t in range(1, len(episode.frames)):
                wanted.append(model.outcome(context[:, t], views[:, t], told))
                told = wanted[-1][0].argmax(-1)
        reward, end = (torch.cat(logits) for logits in zip(*wanted, strict=True))
        signs = reward.argmax(-1).numpy() - 1
        assert len(set(signs.tolist())) > 1
        assert (said == signs).mean() > 0.99
        np.testing.assert_allclose(chance, reward.softmax(-1), atol=1e-3)
        assert (over == (end.argmax(-1) == 1).numpy()).mean() > 0.99


def test_cutting_episodes_in_stretches_leaves_no_tick_out(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = lively(subject)
    episodes = [changed.dataset.load(changed.dataset.held_out[0])]
    whole = outcome.predict(changed, episodes)[0][0]
    monkeypatch.setattr(outcome, "STRETCH", 33)
    cut = outcome.predict(changed, episodes)[0][0]
    # Stretches start from a few frames like a dream, so a few answers may differ from those with a longer memory.
    assert (cut == whole).mean() > 0.9
    assert np.count_nonzero(cut) > 0


def test_an_end_is_told_once_and_also_by_the_score(subject: Subject) -> None:
    episode = subject.dataset.load(subject.dataset.held_out[0])
    ticks = len(episode)
    over = np.arange(ticks) == ticks - 1
    ended = replace(episode, terminated=over)
    limited = World(
        replace(subject.world.config, score_limit=3), subject.world.actions, subject.world.model, subject.world.starts
    )
    judged = Subject(limited, subject.dataset, subject.source, subject.extent, subject.settings, quiet=True)
    rewards = np.zeros(ticks, np.int64)
    rewards[[10, 20, ticks - 1]] = -1
    found = outcome._ends(judged, [ended], [rewards], [np.arange(ticks) == 5])
    assert found["session"]["precision"] == found["session"]["recall"] == 1, "the head is not asked"
    assert found["head"]["recall"] == found["head"]["precision"] == 0


def test_a_life_that_is_told_in_ticks_running_is_lost_once(subject: Subject) -> None:
    episode = subject.dataset.load(subject.dataset.held_out[0])
    at = np.arange(len(episode))
    lost = replace(episode, terminated=np.isin(at, (10, 40)))
    config, world = replace(subject.world.config, lives=5), subject.world
    counted = World(config, world.actions, world.model, world.starts)
    judged = Subject(counted, subject.dataset, subject.source, subject.extent, subject.settings, quiet=True)
    found = outcome._ends(judged, [lost], [np.zeros(len(at), np.int64)], [np.isin(at, (12, 13, 14, 60))])
    assert found["lives"] == {"precision": 0.5, "recall": 0.5, "said": 2, "true": 2, "matched": 1, "tolerance": 3}
    judged.world = World(replace(config, shortest_life=20), world.actions, world.model, world.starts)
    again = outcome._ends(judged, [lost], [np.zeros(len(at), np.int64)], [np.isin(at, (12, 16, 20, 31, 42))])["lives"]
    assert (again["said"], again["matched"]) == (2, 2), "nobody loses two lives so soon one after the other"
    said = {bar.text: bar for bar in bars({"outcome": {"end": found}})}
    assert said["precision of lost lives, within 3 ticks"].value == 0.5
    assert not said["recall of lost lives, within 3 ticks"].passed


def test_the_report_counts_the_real_points(subject: Subject) -> None:
    found = outcome.measure(subject)
    episodes = [subject.dataset.load(info) for info in subject.dataset.held_out]
    assert found["ticks"] == sum(map(len, episodes))
    assert found["-1"]["exact"]["true"] == sum(int((e.rewards < 0).sum()) for e in episodes) > 0
