"""Tiles and what is seen beside them, on the real Breakout and on pictures with known faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.agents.scripted import BreakoutPlayer
from worldsim.envs.sources import load_source, make_source
from worldsim.errors import SourceError
from worldsim.evaluation import tiles
from worldsim.vision.colours import ColourReader, tells_apart
from worldsim.vision.tiles import TileReader

SOURCE = load_source("breakout")


@pytest.fixture(scope="module")
def play() -> Iterator[dict[str, NDArray[Any]]]:
    """Forty seconds of the real game: frames [T+1, H, W, 3], the ball's true place [T+1, 2] and rewards [T]."""
    pytest.importorskip("ale_py")
    source = make_source(SOURCE)
    player = BreakoutPlayer(source.actions, np.random.default_rng(0), source.config.height, "expert")
    frame, info = source.reset(seed=0)
    frames, balls, rewards = [frame], [info["state"]], []
    for _ in range(1200):
        frame, reward, *_, info = source.step(player.act(info["state"]))
        frames.append(frame)
        balls.append(info["state"])
        rewards.append(reward)
    source.close()
    true = np.array([(state["ball_x"], state["ball_y"]) for state in balls])
    yield {"frames": np.stack(frames), "balls": true, "rewards": np.array(rewards)}


@pytest.fixture
def reader() -> ColourReader:
    return ColourReader(SOURCE.objects, SOURCE.height, SOURCE.width)


def wall_of(reader: ColourReader) -> TileReader:
    assert reader.tiles is not None
    return reader.tiles


def test_every_broken_brick_is_seen_when_it_is_rewarded(reader: ColourReader, play: dict[str, NDArray[Any]]) -> None:
    wall = wall_of(reader).read(play["frames"])
    assert wall[0].all() and wall.shape[1:] == (6, 18)
    gone = wall[:-1].sum((1, 2)) - wall[1:].sum((1, 2), dtype=np.int64)
    np.testing.assert_array_equal(gone > 0, play["rewards"] > 0)
    assert gone.sum() >= 10 and gone.min() == 0


def test_ball_and_paddle_are_told_apart_by_where_they_are(reader: ColourReader, play: dict[str, NDArray[Any]]) -> None:
    assert tells_apart(SOURCE.objects)
    seen, true = reader.read(play["frames"]), play["balls"]
    ball, there = seen["ball"], ~np.isnan(play["balls"]).any(1)
    assert ball.single[there].mean() > 0.97 and not ball.present[~there].any()
    open_field = there & (np.abs(true[:, 1] - 54) < 20) & (np.abs(true[:, 0] - 39.5) < 34)  # nor at a wall
    assert ball.single[open_field].all()
    np.testing.assert_allclose(ball.x[open_field], true[open_field, 0], atol=0.1)
    np.testing.assert_allclose(ball.y[open_field], true[open_field, 1], atol=0.1)
    assert seen["player"].single.mean() > 0.98
    middles = reader.middles(play["frames"], ["ball"])[0]
    np.testing.assert_allclose(middles[open_field], true[open_field], atol=0.1)


def test_bricks_that_come_back_and_bricks_that_break_alone_are_counted(
    reader: ColourReader, play: dict[str, NDArray[Any]]
) -> None:
    wall, frames = wall_of(reader), play["frames"][:, None]
    there, balls = wall.read(frames), reader.read(frames)["ball"]
    honest = tiles.count(wall, there[0], there[1:], balls[1:], 30.0)
    assert honest["back"] == 0 and honest["kept"] == 1
    assert honest["broke"] == there[0].sum() - there[-1].sum() >= 10 and honest["untouched"] <= 0.1
    faulty = there.copy()
    row, column = np.argwhere(~there[-1, 0])[0]
    faulty[-1, 0, row, column] = True  # one comes back
    far = int(np.argmax(balls.y[:, 0] > 60))  # the ball is at the paddle
    faulty[far:, 0, 0, 0] = False  # and one breaks
    found = tiles.count(wall, faulty[0], faulty[1:], balls[1:], 30.0)
    assert found["back"] == 1 and found["kept"] < 1
    assert round(found["untouched"] * found["broke"] - honest["untouched"] * honest["broke"]) == 1
    side = there[1:], balls[1:]
    compared = tiles.compare(wall, there[0], (faulty[1:], balls[1:]), side, 30.0)
    assert compared["real"] == honest and compared["dream"] == found and compared["alike"] == 1 - 2 / 108


def test_a_new_wall_is_no_fault(reader: ColourReader) -> None:
    empty = np.zeros((3, 1, 6, 18), bool)
    empty[2] = True
    nothing = reader.read(np.zeros((2, 1, 80, 80, 3), np.uint8))["ball"]
    assert tiles.count(wall_of(reader), empty[0], empty[1:], nothing, 30.0)["back"] == 0


def test_a_ball_in_a_cell_is_no_tile_and_a_faint_tile_is_one_from_half_on(reader: ColourReader) -> None:
    frame = np.zeros((80, 80, 3), np.uint8)
    frame[13:15, 10] = [200, 72, 72]
    assert not wall_of(reader).read(frame).any() and reader.read(frame)["ball"].single
    for share, seen in ((0.45, False), (0.55, True)):
        frame[12:15, 8:12] = (share * np.array([200, 72, 72])).round()
        assert wall_of(reader).read(frame)[0, 1] == seen


def test_areas_and_tiles_that_do_not_fit_are_refused() -> None:
    wall = SOURCE.objects["tiles"]
    with pytest.raises(SourceError, match=r"6x18 cells of whole pixels, which the area \[12, 29, 4, 76\] does not"):
        TileReader(wall | {"area": [12, 29, 4, 76]}, np.zeros(3, np.float32))
    with pytest.raises(SourceError, match="give each row one of its own"):
        TileReader(wall | {"colours": [[0, 0, 0]] * 6}, np.zeros(3, np.float32))
    low = SOURCE.objects["player"] | {"area": [70, 80, 4, 76]}
    assert not tells_apart(SOURCE.objects | {"player": low}), "they meet, and look alike"


def test_areas_follow_the_size_of_the_frame() -> None:
    half = SOURCE.at(40, 40).objects
    assert half["player"] == {"colour": [200, 72, 72], "size": [4, 1], "area": [39, 40, 2, 38]}
    assert half["tiles"]["area"] == [6, 15, 2, 38]


def test_at_a_size_that_cuts_tiles_nothing_is_told_by_colour() -> None:
    """And evaluation takes its learned reader."""
    assert tells_apart(SOURCE.at(160, 160).objects)
    assert not tells_apart(SOURCE.at(84, 84).objects) and not tells_apart(SOURCE.at(40, 40).objects)
