"""One frame ahead, by what the object does there."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.evaluation import motion
from worldsim.evaluation.report import SECTIONS
from worldsim.evaluation.subject import Subject


def test_a_dream_that_stands_still_is_off_by_the_speed(subject: Subject) -> None:
    assert subject.reader
    frames = np.stack([moment.frames for moment in subject.moments(8, 90)], 1)
    real = subject.reader.read(frames)["ball"]
    off, none = motion.frame_errors(frames[1:-1], frames[1:]), motion.frame_errors(frames[2:], frames[1:])
    still, perfect = motion.compare(real[1:-1], real, off), motion.compare(real[2:], real, none)
    assert perfect["all"]["error"] == 0 < still["all"]["error"]
    assert still["all"]["share"] + still["is not there"]["share"] == pytest.approx(1)
    kinds = [kind for kind in still if kind.startswith(("goes on", "turns", "comes"))]
    # A ball that stood still is in neither kind of its first two frames.
    assert 0.8 < sum(still[kind]["share"] for kind in kinds) / still["all"]["share"] <= 1 + 1e-9
    assert perfect["all"]["frames"] > 100 and perfect["all"]["p90"] == 0 and perfect["all"]["single"] > 0.9
    kinds = [kind for kind in still if kind.startswith("goes on")]
    assert len(kinds) > 1
    for kind in kinds:
        edges = kind.removeprefix("goes on at ").split(" px")[0].replace("and more", "to inf").split(" to ")
        low, high = (float(edge) for edge in edges)
        assert low <= still[kind]["median"] <= still[kind]["p90"] < high
    assert still["comes into view"]["median"] == np.inf and still["comes into view"]["wrong"] == 1
    parts = [kind for kind in perfect if kind not in ("all", "comes into view", "is not there")]
    assert sum(perfect[kind]["frames"] for kind in parts) <= perfect["all"]["frames"]


def test_every_turn_of_a_bouncing_ball_is_found(subject: Subject) -> None:
    """Against the game's own state: a ball whose x speed changes sign turns."""
    assert subject.reader
    turns = 0
    for info in subject.dataset.episodes:
        episode = subject.dataset.load(info)
        x = episode.state["ball_x"]
        found = motion._kinds(subject.reader.read(episode.frames[:, None])["ball"])["turns"][:, 0]
        step = np.diff(x)
        turned = np.flatnonzero(step[1:] * step[:-1] < 0)
        turns += len(turned)
        assert found[turned].all()
    assert turns > 5


def test_an_untrained_world_knows_no_motion(subject: Subject) -> None:
    report = motion.measure(subject)
    ball = report["by_object"]["ball"]["all"]
    assert ball["wrong"] == pytest.approx(1) and ball["single"] == 0
    assert "comes into view" in "\n".join(SECTIONS["motion"](report))


def test_an_error_is_weighted_near_what_has_just_moved() -> None:
    real = np.zeros((4, 1, 16, 16, 3), np.uint8)
    real[1:, 0, 4, 4] = 255  # comes unforeseen, and stays
    assert (motion.frame_errors(real[1:], real) == 0).all()
    unseen, near, still = motion.frame_errors(np.zeros_like(real[1:]), real)[:, 0]
    assert unseen == still == pytest.approx(1000 * 4 / 256) and near == pytest.approx(16 * still)
    made = real[1:].copy()
    made[1:, 0, 7, 7] = 255  # within three pixels of what has just come
    errors = motion.frame_errors(made, real)[:, 0]
    assert errors[1] == pytest.approx(16 * still) and errors[2] == pytest.approx(still)

