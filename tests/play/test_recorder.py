"""Films and screenshots of a game."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from worldsim.play.recorder import Recorder


def test_recordings_and_screenshots_never_take_a_name_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with Recorder(tmp_path, "pong", 30.0) as recorder:
        for _ in range(3):
            assert "saved" in recorder.screenshot(frame)
            assert recorder.toggle() == "" and recorder.recording
            recorder.add(frame)
            assert "saved" in recorder.toggle() and not recorder.recording
        recorder.toggle()
        recorder.add(frame)
    shots, films = sorted((tmp_path / "screenshots").iterdir()), list((tmp_path / "recordings").iterdir())
    assert len(shots) == 3 and len(films) == 4
    assert capsys.readouterr().out.count("wrote ") == 7
    np.testing.assert_array_equal(cv2.imread(str(shots[0]))[..., ::-1], frame)
