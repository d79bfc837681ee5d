"""Games to play turn by turn: real pygame on its dummy driver, a real session, random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from worldsim.play.app import PlayConfig, open_game, open_session
from worldsim.play.game import Game
from worldsim.world import World, save_world

OpenGame = Callable[..., Game]


@pytest.fixture
def open_a_game(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_world: Callable[..., World]
) -> Iterator[OpenGame]:
    """Open a headless game of a fresh world.

    `world` are arguments for `make_world`; the rest are those of `PlayConfig`.
    """
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:

        def make(*, world: dict[str, Any] | None = None, **settings: Any) -> Game:
            folder = save_world(
                make_world(**world or {}), tmp_path / f"world{len(list(tmp_path.glob('world*')))}"
            )
            usual = dict(
                headless=True, unpaced=True, keys="idle", seed=3, size=96, threads=1, dtype="float32"
            )
            config = PlayConfig(**usual | {"world": str(folder)} | settings)
            return open_game(config, *open_session(config), stack)

        yield make
