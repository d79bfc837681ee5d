"""Objects by colour, held against the game's own state."""

from __future__ import annotations

from worldsim.data.episodes import Dataset
from worldsim.evaluation.objects import validate_reader
from worldsim.evaluation.subject import Subject, source_of
from worldsim.vision.colours import ColourReader


def test_on_real_frames_it_agrees_with_the_games_own_state(subject: Subject) -> None:
    for found in validate_reader(subject).values():
        assert found["frames"] > 400
        assert found["agreement"] >= 0.995
        assert found["single"] >= 0.99
        assert found["error_median"] < 0.15
        assert found["error_max"] < 0.75


def test_training_frames_never_show_two_of_a_kind(pong_data: Dataset) -> None:
    objects = source_of(pong_data).objects
    frames = pong_data.load(pong_data.train[0]).frames
    for reading in ColourReader(objects, 80, 80).read(frames).values():
        assert (reading.count <= 1).mean() > 0.995
