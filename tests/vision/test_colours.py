"""Objects by colour: held against pictures with known faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.errors import SourceError
from worldsim.vision.colours import ColourReader, tells_apart
from worldsim.vision.reading import distance

OBJECTS: dict[str, Any] = {
    "ball": {"colour": [236, 236, 236], "size": [0.8, 1.6]},
    "player": {"colour": [92, 186, 92], "size": [1.6, 6.4]},
    "opponent": {"colour": [213, 130, 74], "size": [1.6, 6.4]},
    "background": {"colour": [144, 72, 17]},
}


def court(*things: tuple[str, float, float, float]) -> NDArray[np.uint8]:
    """A field with things (object, left, top, scale), drawn with the exact share of every pixel they cover."""
    frame = np.empty((64, 64, 3))
    frame[:] = OBJECTS["background"]["colour"]
    for name, left, top, scale in things:
        width, height = (side * scale for side in OBJECTS[name]["size"])
        cover = np.outer(_share(top, height), _share(left, width))[..., None]
        frame = frame * (1 - cover) + cover * np.array(OBJECTS[name]["colour"])
    return frame.round().astype(np.uint8)


def faint(frame: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """A picture of which only a share of the contrast is left."""
    field = court().astype(np.float64)
    return (field + strength * (frame - field)).round().astype(np.uint8)


def _share(start: float, length: float) -> NDArray[np.float64]:
    edges = np.arange(65)
    return np.diff(np.clip(edges, start, start + length) - start)


@pytest.fixture
def reader() -> ColourReader:
    return ColourReader(OBJECTS, 64, 64)


def test_a_difference_of_colours_tells_how_much_of_a_thing_it_is(reader: ColourReader) -> None:
    colours = [np.array(OBJECTS[name]["colour"], np.float32) / 127.5 for name in ("background", "ball", "player")]
    field, ball, player = colours
    unmix = reader.unmixing(["ball", "opponent"])
    np.testing.assert_allclose((ball - field) @ unmix, [1, 0], atol=1e-4)
    np.testing.assert_allclose(0.25 * (field - ball) @ unmix, [-0.25, 0], atol=1e-4)
    np.testing.assert_allclose((player - field) @ unmix, [0, 0], atol=1e-4)
    with pytest.raises(SourceError, match="no object 'bat' is told by its colour: choose of ball, player, opponent"):
        reader.unmixing(["bat"])


def test_a_thing_is_taken_out_of_a_picture_and_nothing_else(reader: ColourReader) -> None:
    def picture(*things: tuple[str, float, float]) -> NDArray[np.uint8]:
        frame = np.full((64, 64, 3), OBJECTS["background"]["colour"], np.float64)
        for name, x, y in things:
            wide, high = OBJECTS[name]["size"]
            cover = _share(y, high)[:, None, None] * _share(x, wide)[None, :, None]
            frame += cover * (np.array(OBJECTS[name]["colour"]) - frame)
        return np.rint(frame).astype(np.uint8)

    others = ("ball", 30.4, 20.7), ("opponent", 8.0, 11.3)
    shown = np.stack([picture(*others, ("player", 56.3, 40.6)), picture(*others)])
    taken = reader.without(shown, ["player"]).astype(int)
    assert np.abs(shown[0].astype(int) - shown[1]).max() > 60
    assert np.abs(taken - shown[1]).max() <= 6, "what is left of it is no more than a reader takes for an error"
    assert np.array_equal(reader.without(shown, []), shown)
    with pytest.raises(SourceError, match="no object 'bat' is told by its colour"):
        reader.without(shown, ["bat"])


def test_whole_objects_are_read_to_a_tenth_of_a_pixel(reader: ColourReader) -> None:
    readings = reader.read(court(("ball", 30.35, 20.6, 1), ("player", 56.0, 10.2, 1), ("opponent", 6.4, 40.0, 1)))
    for name, left, top in (("ball", 30.35, 20.6), ("player", 56.0, 10.2), ("opponent", 6.4, 40.0)):
        width, height = OBJECTS[name]["size"]
        reading = readings[name]
        assert reading.single, name
        assert abs(float(reading.size) - 1) < 0.1
        assert abs(float(reading.x) - (left + width / 2 - 0.5)) < 0.1
        assert abs(float(reading.y) - (top + height / 2 - 0.5)) < 0.1


def test_middles_are_those_of_what_is_read_where_there_is_one(reader: ColourReader) -> None:
    """And NaN where there are none, or two."""
    frames = [
        court(("ball", x, y, 1), ("player", 58, 20, 1)) for x, y in ((10.3, 20.7), (40, 5.5), (56.9, 21.2), (30.5, 60))
    ]
    frames += [court(("player", 58, 20, 1)), court(("ball", 10, 10, 1), ("ball", 40, 40, 1))]
    frames += [court(("ball", 9, 9, 0.6))]
    for names in (["ball"], ["player", "ball"]):
        middles, read = reader.middles(np.stack(frames), names), reader.read(np.stack(frames))
        assert middles.shape == (len(names), 7, 2)
        ball = read["ball"]
        np.testing.assert_allclose(middles[-1, :4], np.stack((ball.x, ball.y), 1)[:4], atol=0.05)
        assert np.isnan(middles[-1, 4:]).all()
    np.testing.assert_allclose(reader.middles(np.stack(frames), ["player"])[0, :5, 1], 20 + 6.4 / 2 - 0.5, atol=0.1)
    with pytest.raises(SourceError, match="no object 'bat'"):
        reader.middles(np.stack(frames), ["bat"])


def test_an_empty_field_holds_nothing(reader: ColourReader) -> None:
    for reading in reader.read(court()).values():
        assert reading.count == 0 and not reading.present and np.isnan(reading.x)


def test_a_second_ball_is_noticed(reader: ColourReader) -> None:
    ball = reader.read(court(("ball", 30, 20, 1), ("ball", 38, 20, 1)))["ball"]
    assert ball.count == 2 and ball.present and not ball.single


def test_a_second_ball_of_a_third_of_the_contrast_is_noticed(reader: ColourReader) -> None:
    ghost = faint(court(("ball", 38, 20, 1)), 1 / 3).astype(np.int64) - court()
    both = (court(("ball", 30, 20, 1)) + ghost).astype(np.uint8)
    assert reader.read(both)["ball"].count == 2


def test_a_doubled_and_a_halved_ball_are_not_of_the_real_size(reader: ColourReader) -> None:
    for scale in (2.0**0.5, 0.5**0.5):
        ball = reader.read(court(("ball", 30.2, 20.4, scale)))["ball"]
        assert ball.count == 1 and not ball.single
        assert abs(float(ball.size) - scale**2) < 0.15
    assert not reader.read(court(("ball", 30.2, 20.4, 0.5**0.5)))["ball"].present


def test_a_ball_that_leaves_the_picture_is_as_big_as_what_can_be_seen_of_it(reader: ColourReader) -> None:
    ball = reader.read(np.stack([court(("ball", 30, top, 1)) for top in (-1.2, -0.8, 62.8, 63.2)]))["ball"]
    assert ball.single.all()


def test_noise_of_two_grey_levels_is_no_object(reader: ColourReader) -> None:
    rng = np.random.default_rng(0)
    noisy = court().astype(np.int64) + rng.integers(-2, 3, (20, 64, 64, 3))
    assert all((reading.count == 0).all() for reading in reader.read(noisy.astype(np.uint8)).values())


def test_a_field_of_another_colour_is_not_one_ball(reader: ColourReader) -> None:
    assert not reader.read(np.full((64, 64, 3), 236, np.uint8))["ball"].single


def test_readings_have_the_shape_of_what_was_read(reader: ColourReader) -> None:
    frames = np.broadcast_to(court(("ball", 30, 20, 1)), (3, 700, 64, 64, 3))
    ball = reader.read(frames)["ball"]
    assert ball.count.shape == ball.x.shape == (3, 700)
    assert ball.single.all()


def test_the_distance_to_a_missing_object_is_infinite_and_of_a_missing_truth_unknown(reader: ColourReader) -> None:
    here, there, nowhere = (reader.read(court(*t))["ball"] for t in ([("ball", 3, 4, 1)], [("ball", 6, 8, 1)], []))
    assert abs(float(distance(here, there)) - 5) < 0.1
    assert np.isinf(distance(nowhere, there))
    assert np.isnan(distance(here, nowhere))


def test_objects_of_one_colour_are_refused() -> None:
    alike = OBJECTS | {"opponent": {"colour": [235, 235, 236], "size": [1, 1]}}
    assert tells_apart(OBJECTS) and not tells_apart(alike) and not tells_apart({})
    with pytest.raises(SourceError, match="alike"):
        ColourReader(alike, 64, 64)
