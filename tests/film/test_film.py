"""Films, read back by another program's eyes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.errors import WorldsimError
from worldsim.film.film import Film
from worldsim.film.gif import TOLERANCE, write_gif


def moving_ball(count: int, height: int = 48, width: int = 64, noise: float = 0.0) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    frames = []
    for t in range(count):
        frame = np.full((height, width, 3), (144, 72, 17), np.float64)
        frame[10 + t % 30 : 14 + t % 30, 5 + t % 50 : 9 + t % 50] = (236, 236, 236)
        frames.append((frame + random.normal(0, noise, frame.shape)).clip(0, 255).astype(np.uint8))
    return frames


def read_gif(path: Path) -> tuple[list[NDArray[np.uint8]], list[int]]:
    ok, animation = cv2.imreadanimation(str(path))
    assert ok
    return [frame[..., 2::-1] for frame in animation.frames], list(animation.durations)


def test_a_gif_shows_the_frames_and_keeps_their_time(tmp_path: Path) -> None:
    frames = moving_ball(30, noise=1.0)
    write_gif(tmp_path / "ball.gif", iter(frames), 30.0)
    shown, durations = read_gif(tmp_path / "ball.gif")
    assert len(shown) == 30 and sum(durations) == 1000
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(shown, frames, strict=True)) <= TOLERANCE


def test_a_flat_field_costs_a_gif_nothing(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("many", 31)):
        write_gif(tmp_path / name, moving_ball(count, noise=0.5), 30.0)
    grown = (tmp_path / "many").stat().st_size - (tmp_path / "one").stat().st_size
    assert grown / 30 < 1000, "a frame is its colours and the ball"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (3, 85), (50, 60), (70, 1000)])
def test_gif_packing_survives_any_length_of_noise(tmp_path: Path, height: int, width: int) -> None:
    frames = (np.random.default_rng(width).integers(0, 4, (2, height, width, 3)) * 64).astype(np.uint8)
    write_gif(tmp_path / "noise.gif", frames, 10.0)
    np.testing.assert_array_equal(read_gif(tmp_path / "noise.gif")[0], frames)


def test_more_colours_than_a_gif_has_come_close(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_gif(tmp_path / "noise.gif", [frame], 10.0)
    assert np.abs(read_gif(tmp_path / "noise.gif")[0][0].astype(int) - frame).mean() < 16


def test_an_mp4_has_every_frame_and_even_sides(tmp_path: Path) -> None:
    film = Film(tmp_path / "made" / "ball.mp4", 30.0)
    for frame in moving_ball(25, height=49, width=65):
        film.add(frame)
    film.add(moving_ball(1, height=80, width=90)[0])  # the window grew
    path = film.close()
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 26 and frames[0].shape == (48, 64, 3)
    assert np.abs(frames[0][20, 40, ::-1].astype(int) - (144, 72, 17)).max() < 12
    assert [file.name for file in path.parent.iterdir()] == ["ball.mp4"], "nothing half-made is left"


def test_a_film_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "old.gif").write_bytes(b"old")
    (tmp_path / ".old.part.gif").mkdir()  # where the new one would be written
    film = Film(tmp_path / "old.gif", 30.0)
    for frame in moving_ball(200):
        film.add(frame)
    with pytest.raises(WorldsimError, match=r"cannot write .*old\.gif"):
        film.close()
    assert (tmp_path / "old.gif").read_bytes() == b"old"


def test_a_film_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match=r"must end in \.mp4 or \.gif"):
        Film(tmp_path / "ball.avi", 30.0)
