"""The outcome heads alone: what they learn from, and which of it they hear; as a part of a run: test_stretches."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.kept import TINY
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.sampler import levels
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.outcomes import STRETCH, Contexts, event_at, gather_contexts, outcome_loss, overdrawn


def test_events_take_turns_with_anything() -> None:
    asked = [[event_at(("lost", "won"), step, place) for place in range(4)] for step in range(2)]
    assert asked == [["lost", "won", None, "lost"], ["won", None, "lost", "won"]]
    assert event_at((), 0, 0) is None


def test_the_heads_learn_from_the_same_clips_in_however_many_processes(model: WorldModel, store: ClipStore) -> None:
    def kept(places: range) -> Contexts:
        return gather_contexts(model, store, 0, range(3), places, levels(1))

    whole, parts = kept(range(4)), [kept(range(2)), kept(range(2, 4))]
    assert whole.tokens.shape == (4, 3, store.length - 1, TINY.tokens, TINY.dim)
    # Sums of other batches round otherwise, and now and then a pixel of an own frame is one grey level off.
    torch.testing.assert_close(whole.tokens, torch.cat([part.tokens for part in parts]), rtol=1e-3, atol=2e-3)
    assert torch.equal(whole.rewards, torch.cat([part.rewards for part in parts]))
    halves = [outcome_loss(model, part, 0, 7) for part in parts]
    torch.testing.assert_close(outcome_loss(model, whole, 0, 7), sum(halves) / 2, rtol=1e-4, atol=1e-5)
    assert outcome_loss(model, whole, 0, 7) != outcome_loss(model, whole, 0, 8), "another of the kept clips"


def test_each_kind_of_event_is_heard_as_often_as_anything(model: WorldModel, store: ClipStore) -> None:
    """One end among many points: a third of the stretches hold it."""
    kept = gather_contexts(model, store, 0, [0], range(1), levels(1))
    ticks = 4 * STRETCH
    long = {name: getattr(kept, name).repeat_interleave(ticks, 2)[:, :, :ticks] for name in ("tokens", "since")}
    nothing = torch.ones(1, 1, ticks, dtype=torch.int64)
    kept = replace(kept, **long, seen=kept.seen[:, :, :1].expand(-1, -1, ticks + 1, -1, -1), rewards=nothing)
    kept = replace(kept, terminated=torch.zeros_like(nothing))
    kept.rewards[..., : ticks - STRETCH] = 2
    kept.terminated[..., -1] = 1

    def loss(step: int) -> float:
        return float(outcome_loss(model, kept, 0, step).detach())

    model = copy.deepcopy(model)
    with torch.no_grad():
        for head in (model.heads.reward, model.heads.end):
            head.weight.zero_()
            head.bias.zero_()
        model.heads.end.bias[0] = 12.0  # sure that nothing ends: a stretch that holds an end costs 12 / STRETCH more
    with_end = sum(loss(step) > np.log(3) + 0.5 for step in range(200))
    assert 45 < with_end < 95


def test_heads_are_left_the_chances_of_the_record(model: WorldModel, play: Dataset) -> None:
    """A head that says of every tick what was recorded on the whole has nothing to learn from what is drawn."""
    store = ClipStore(play, play.train, 2 * STRETCH)
    kept = gather_contexts(model, store, 0, range(6), range(2), levels(1))
    alone = [gather_contexts(model, store, 0, range(6), range(at, at + 1), levels(1)) for at in range(2)]
    counts: list[list[torch.Tensor]] = []
    often = overdrawn(kept, store, 0, counts.append)
    for part in alone:
        overdrawn(part, store, 0, counts.append)
    for whole, *parts in zip(*counts, strict=True):
        assert torch.equal(whole, sum(parts)), "the same in however many processes"
    recorded = [torch.from_numpy(each / each.sum()) for each in store.outcomes()]
    model = copy.deepcopy(model)
    heads = model.heads.reward, model.heads.end
    assert often[0][0] > 1, "points lost are drawn far more often than they come"
    assert recorded[1][1] == often[1][1] == 0, "nothing ends here"
    with torch.no_grad():
        for head, share in zip(heads, recorded, strict=True):
            head.weight.zero_()
            head.bias.copy_(share.clamp_min(1e-9).log())
    steepest = []
    for told in (often, None):
        model.zero_grad()
        for step in range(100):
            (outcome_loss(model, kept, 0, step, often=told) / 100).backward()
        steepest.append(float(torch.cat([head.bias.grad for head in heads]).abs().max()))
    assert steepest[0] < 0.01 < 0.03 < steepest[1]


def test_an_end_can_be_told_from_what_changes_alone() -> None:
    """What the last frame shows besides, however much that is, says nothing then."""
    model = init_weights(WorldModel(replace(TINY, own_end=True)), 0)
    view, context = torch.randn(2, TINY.tokens, TINY.view_dim), torch.randn(2, TINY.tokens, TINY.dim)
    other = view.clone()
    other[..., : TINY.seen_dim] += 100
    last = torch.ones(2, dtype=torch.int64)
    (reward, end), (other_reward, other_end) = model.outcome(context, view, last), model.outcome(context, other, last)
    assert torch.equal(end, other_end) and not torch.equal(reward, other_reward)
    other[..., -1] += 1
    assert not torch.equal(end, model.outcome(context, other, last)[1])


def test_a_head_learns_whether_the_last_reward_is_recent(store: ClipStore) -> None:
    shape = replace(TINY, reward_ages=40, recency=True)
    model = init_weights(WorldModel(shape), 0)
    kept = gather_contexts(model, store, 0, range(2), range(2), levels(1))
    clip, _ = store.draw(0, 1, 0, event=event_at(store.events, 1, 0))
    assert kept.since[0, 1].tolist() == clip.since[1:].tolist()
    kept.since[:] = torch.tensor([0, 41, -50, -41]).repeat(100)[: kept.since.shape[-1]]  # none of them recent

    def loss(sign: int) -> float:
        """Where the head is sure of this sign."""
        with torch.no_grad():
            said = model.heads.recent[-1]
            said.weight.zero_()
            said.bias.copy_(-10.0 * (torch.arange(3) != sign + 1))
        return float(outcome_loss(model, kept, 0, 3).detach())

    others = loss(0)
    assert loss(1) == pytest.approx(others + 10, abs=0.01)
    kept.since[:] = 40
    assert loss(1) == pytest.approx(others, abs=0.01) and loss(-1) == pytest.approx(others + 10, abs=0.01)
    kept.since[:] = -1
    assert loss(-1) == pytest.approx(others, abs=0.01) and loss(0) == pytest.approx(others + 10, abs=0.01)


def test_kept_contexts_are_those_of_the_frames_that_rewards_led_to(model: WorldModel, store: ClipStore) -> None:
    kept = gather_contexts(model, store, 0, [5], range(1), levels(1))
    clip, _ = store.draw(0, 5, 0, event=event_at(store.events, 5, 0))
    assert kept.rewards[0, 0].tolist() == (np.sign(clip.rewards).astype(int) + 1).tolist()
    frames = torch.from_numpy(clip.frames)[None].float() / 127.5 - 1
    previous = torch.tensor([[model.no_action, *clip.actions.tolist()]])
    with torch.no_grad():
        whole = model.encode(model.views(model.patchify(frames)), previous, torch.zeros_like(previous))
    torch.testing.assert_close(kept.tokens[0, 0], whole[0, 1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(kept.seen[0, 0], model.patchify(torch.from_numpy(clip.frames)))
