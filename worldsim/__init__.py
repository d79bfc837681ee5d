"""worldsim: any Gymnasium game goes in, a playable neural copy of it comes out.

Importing it registers the environments (`gym.make("worldsim:WorldSim/Pong-v0")`) and loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent

# Installed, `worldsim.envs` and its like are folders beneath this one. In a checkout they lie beside it, and
# `python play.py` finds this folder first even when a copy is installed elsewhere: so look there too.
if not (_HERE / "envs").is_dir() and (_HERE.parent / "envs" / "__init__.py").is_file():
    __path__.append(str(_HERE.parent))

from worldsim.envs import register_worlds  # noqa: E402

register_worlds()
