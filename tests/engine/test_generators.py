"""Designs at work: cached as uncached, the same again from the same seed, and each as late as it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from worldsim.benchmark.delay import response_delay
from worldsim.engine.buffer import Stream
from worldsim.engine.generators import FrameGenerator, Separable, open_design
from worldsim.engine.sampler import levels
from worldsim.engine.session import Session
from worldsim.engine.together import Chunks, Clips
from worldsim.errors import StartError, WorldsimError
from worldsim.model.config import ModelConfig
from worldsim.model.designs import Design
from worldsim.model.dit import DiT, wake
from worldsim.model.patches import patchify, shown
from worldsim.start import Start
from worldsim.world import World

SMALL = ModelConfig(3, height=16, width=24, dim=32, heads=2, encoder_layers=2, decoder_layers=1, window=6)
MakeWorld = Callable[..., World]


def start(length: int = 7) -> Start:
    random = np.random.default_rng(5)
    frames = random.integers(0, 256, (length, SMALL.height, SMALL.width, 3), np.uint8)
    return Start("noise", frames, random.integers(0, SMALL.num_actions, length - 1))


def network(chunk: int, window: int = SMALL.window, viewed: bool = False) -> DiT:
    torch.manual_seed(0)
    sizes = {**vars(SMALL), "window": window, "viewed": viewed, "refined": viewed, "history": 3}
    model = DiT(ModelConfig(**sizes), chunk).eval().requires_grad_(False)
    wake(model, seed=1, scale=0.1)
    return model


def play(generator: FrameGenerator, actions: np.ndarray, seed: int = 0) -> np.ndarray:
    generator.prime(start(), seed)
    frames = []
    for now in actions:
        frames.append(generator.render(now))
        generator.commit()
    return np.stack(frames)


def designs(batch: int = 1) -> dict[str, FrameGenerator]:
    return {
        "frame-causal": Chunks(network(1), batch, steps=2),
        "chunks of 4": Chunks(network(4), batch, steps=2),
        "frame-causal that sees views": Chunks(network(1, viewed=True), batch, steps=2),
        "chunks of 2 that sees views": Chunks(network(2, viewed=True), batch, steps=2),
        "clips of 3 that sees views": Clips(network(6, 2, True), batch, frames=3, reference=3, steps=2),
        "stream of 4 that sees views": Stream(network(6, 2, True), batch, frames=4, reference=2),
        "clips of 3": Clips(network(6, window=2), batch, frames=3, reference=3, steps=2),
        "stream of 4": Stream(network(6, window=2), batch, frames=4, reference=2),
        "causal stream of 4": Stream(network(1), batch, frames=4, reference=2),
        "stream of 2, two passes": Stream(network(5, window=2), batch, frames=2, reference=3, passes=2),
    }


DELAYS = {
    "frame-causal": (1, 1, 1),
    "chunks of 4": (4, 1, 4),
    "frame-causal that sees views": (1, 1, 1),
    "chunks of 2 that sees views": (2, 1, 2),
    "clips of 3 that sees views": (3, 1, 3),
    "stream of 4 that sees views": (4, 1, 1),
    "clips of 3": (3, 1, 3),
    "stream of 4": (4, 1, 1),
    "causal stream of 4": (4, 4, 4),
    "stream of 2, two passes": (2, 1, 1),
}


@pytest.mark.parametrize(("name", "delay"), DELAYS.items())
def test_an_action_shows_as_late_as_the_design_says(name: str, delay: tuple[int, int, int]) -> None:
    """No frame before it changes, exactly, and it does change."""
    found = response_delay(designs()[name], start(), SMALL.num_actions)
    assert found is not None and (found.own, found.first, found.most) == delay


def test_the_engines_own_design_shows_an_action_in_the_next_frame(make_world: MakeWorld) -> None:
    world = make_world(seed=1)
    generator = Separable(Session(world, 2, dtype="float32"))
    found = response_delay(generator, world.starts[0], len(world.actions), batch=2)
    assert found is not None and (found.own, found.first, found.most) == (1, 1, 1)


@pytest.mark.parametrize("name", list(designs()))
def test_the_same_seed_and_actions_are_the_same_frames_and_rows_are_apart(name: str) -> None:
    actions = np.random.default_rng(0).integers(0, SMALL.num_actions, (11, 2))
    two = designs(2)[name]
    frames = play(two, actions)
    np.testing.assert_array_equal(play(two, actions), frames)
    assert (play(two, actions, seed=3) != frames).any()
    for row in range(2):
        alone = play(designs()[name], actions[:, row : row + 1], seed=row)
        assert np.abs(alone[:, 0].astype(int) - frames[:, row].astype(int)).max() <= 1
    assert frames.std() > 5 and (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("viewed", [False, True])
def test_a_chunk_is_what_the_whole_clip_gives_through_the_wrap(viewed: bool) -> None:
    """Frames from the ring against the network over all frames so far; one step, so that a frame is one pass."""
    k, model = 3, network(3, viewed=viewed)
    generator, begin = Chunks(model, 1, steps=1), start(6)
    actions = np.random.default_rng(0).integers(0, SMALL.num_actions, (15, 1))
    generator.prime(begin, 0)
    seen, led = [*begin.frames], [model.no_action, *begin.actions.tolist()]
    noise = torch.Generator().manual_seed(0)
    for tick in range(k - 1):  # the game runs behind: at first the start's last frames are shown again
        np.testing.assert_array_equal(generator.render(actions[tick])[0], begin.frames[tick + 1 - k])
        generator.commit()
    for tick in range(k - 1, 15 - k, k):
        frames = []
        for now in actions[tick : tick + k]:
            frames.append(generator.render(now)[0])
            generator.commit()
        known = actions[tick - k + 1 : tick + 1, 0].tolist()  # the chunk is made when the last of its actions is taken
        patches = shown(patchify(torch.from_numpy(np.stack(seen)), SMALL), torch.float32)
        noisy = torch.cat((patches, torch.randn(k, *patches.shape[1:], generator=noise)))[None]
        level = torch.cat((torch.zeros(len(seen)), torch.ones(k)))[None]
        whole = model(noisy, level, torch.tensor([[*led, *known]]))[0, -k:]
        wanted = patchify(torch.from_numpy(np.stack(frames)), SMALL).float()
        assert (whole.add(1).mul(127.5).clamp(0, 255) - wanted).abs().max() <= 0.51
        seen += frames
        led += known


def test_a_clip_is_what_the_network_gives_over_it_and_the_frames_before() -> None:
    k, r, model = 2, 4, network(6, window=2)
    generator, begin = Clips(model, 1, frames=k, reference=r, steps=1), start(3)  # shorter than what goes along
    actions = np.random.default_rng(0).integers(0, SMALL.num_actions, (11, 1))
    generator.prime(begin, 0)
    shown_first = generator.render(actions[0])[0]
    np.testing.assert_array_equal(shown_first, begin.frames[-1])
    generator.commit()
    seen, led = [begin.frames[0], *begin.frames], [*[model.no_action] * 2, *begin.actions.tolist()]
    noise = torch.Generator().manual_seed(0)
    for tick in range(1, 9, k):
        frames = []
        for now in actions[tick : tick + k]:
            frames.append(generator.render(now)[0])
            generator.commit()
        known = actions[tick - 1 : tick + 1, 0].tolist()
        patches = shown(patchify(torch.from_numpy(np.stack(seen[-r:])), SMALL), torch.float32)
        noisy = torch.cat((patches, torch.randn(k, *patches.shape[1:], generator=noise)))[None]
        level = torch.tensor([[0.0] * r + [1.0] * k])
        whole = model(noisy, level, torch.tensor([[*led[-r:], *known]]))[0, -k:]
        wanted = patchify(torch.from_numpy(np.stack(frames)), SMALL).float()
        assert (whole.add(1).mul(127.5).clamp(0, 255) - wanted).abs().max() <= 0.51
        seen += frames
        led += known


@pytest.mark.parametrize("name", ["dit", "dit:2", "clip:3", "stream:3", "stream-causal:3", "stream-windows:3"])
def test_a_design_opened_by_name_runs_behind_by_its_delay(name: str) -> None:
    """The start's last frames, as they were where nothing happens to them on the way."""
    design = Design.parse(name)
    torch.manual_seed(0)
    model = design.make(SMALL).eval().requires_grad_(False)
    wake(model, seed=1, scale=0.1)
    generator = open_design(design, model, SMALL, 2, steps=3)
    assert generator.own_delay == design.delay and str(design) == name
    begins = [start(7), start(7)]
    generator.prime(begins, 0)
    for tick in range(design.delay - 1):
        frames = generator.render(np.zeros(2, np.int64))
        generator.commit()
        if design.kind in ("dit", "clip"):
            np.testing.assert_array_equal(frames[0], begins[0].frames[tick + 1 - design.delay])
    first = generator.render(np.zeros(2, np.int64))
    assert first.shape == (2, SMALL.height, SMALL.width, 3)


@pytest.mark.parametrize("name", ["dit", "clip:3", "stream:2"])
def test_a_design_denoises_at_the_levels_of_its_world(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    design = Design.parse(name)
    model = design.make(SMALL).eval().requires_grad_(False)
    asked: set[float] = set()
    condition = type(model).condition

    def watched(self: DiT, t: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        asked.update(t.flatten().tolist())
        return condition(self, t, action)

    monkeypatch.setattr(type(model), "condition", watched)
    for shift in (1.0, 0.25):
        asked.clear()
        open_design(design, model, SMALL, 1, steps=4, shift=shift)
        np.testing.assert_allclose(sorted(asked - {0.0}, reverse=True), levels(4, shift)[:-1], rtol=1e-6)


def test_rows_begin_each_at_their_own_start() -> None:
    random = np.random.default_rng(9)
    other = Start("other", random.integers(0, 256, start().frames.shape, np.uint8), start().actions)
    actions = np.zeros((6, 2), np.int64)
    for name, generator in designs(2).items():
        generator.prime([start(), other], 0)
        apart = [generator.render(now) for now in actions[:1]]
        generator.prime(start(), 0)
        alike = [generator.render(now) for now in actions[:1]]
        np.testing.assert_array_equal(apart[0][0], alike[0][0], err_msg=name)
        assert (apart[0][1] != alike[0][1]).any(), name
        with pytest.raises(StartError, match="2 of one length"):
            generator.prime([start(), start(5)], 0)


def test_a_network_that_no_action_moves_has_no_delay() -> None:
    blind = DiT(SMALL).eval().requires_grad_(False)
    assert response_delay(Chunks(blind, 1, steps=1), start(), SMALL.num_actions) is None


@pytest.mark.parametrize("name", list(designs()))
def test_who_was_not_primed_says_so(name: str) -> None:
    with pytest.raises(WorldsimError, match=r"prime\(\) first"):
        designs()[name].render(np.zeros(1, np.int64))


def test_a_buffer_must_be_seen_whole() -> None:
    with pytest.raises(WorldsimError, match="a buffer of 9 frames"):
        Stream(network(1), 1, frames=5, reference=4)
    with pytest.raises(WorldsimError, match="a buffer of 6 frames"):
        Stream(network(4), 1, frames=4, reference=2)
    with pytest.raises(WorldsimError, match="a clip of 6 frames"):
        Clips(network(4), 1, frames=4, reference=2, steps=1)
