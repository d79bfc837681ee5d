"""Play a world: `python play.py`. The same as `worldsim play`; `python play.py --help` lists the settings."""

import sys

from worldsim.play.app import main

if __name__ == "__main__":
    sys.exit(main())
