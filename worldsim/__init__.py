"""worldsim: any Gymnasium game goes in, a playable neural copy of it comes out.

`import worldsim` registers the environments (`gym.make("worldsim:WorldSim/Pong-v0")`) and loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent

# Installed, `worldsim.envs` and its like are folders beneath this one. In a checkout they lie beside it, and Python finds
# this folder first even when a copy is installed (`python play.py` puts the checkout at the head of sys.path), so look there too.
if not (_HERE / "envs").is_dir() and (_HERE.parent / "envs" / "__init__.py").is_file():
    __path__.append(str(_HERE.parent))
