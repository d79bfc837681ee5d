"""`worldsim <verb> [key=value ...]`: one door. Each verb is a Hydra main in its own room."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from worldsim import __version__
from worldsim.schema import nearest

# verb: (module, imported when asked for; one line of help), in the order in which a game becomes a world
VERBS = {
    "collect": ("worldsim.data.collect", "record episodes of a real game"),
    "train": ("worldsim.training.pretrain", "learn a world from the episodes"),
    "distill": ("worldsim.training.distillation.distill", "make a world need fewer denoising steps"),
    "export": ("worldsim.training.export", "make a world folder of a run"),
    "evaluate": ("worldsim.evaluation.evaluate", "measure a world against the real game"),
    "compare": ("worldsim.evaluation.compare", "put worlds and denoising steps side by side in one table"),
    "probe": ("worldsim.evaluation.layers", "look at what the layers of a world do, and what can be cut"),
    "transfer": ("worldsim.evaluation.transfer", "play the dream and the real game with the same players"),
    "card": ("worldsim.evaluation.card", "copy measured figures into README and CARD"),
    "benchmark": ("worldsim.benchmark.run", "measure what a key press costs; `benchmark compare a.json b.json`"),
    "study": ("worldsim.benchmark.study", "put designs side by side: what each is worth and what it costs"),
    "play": ("worldsim.play.app", "play a world in a window"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns its exit code (2 for a command that cannot be understood)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help_text())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb == "--version":
        print(f"worldsim {__version__}")
        return 0
    if verb not in VERBS:
        verbs = tuple(VERBS)
        there = ", ".join(verbs)
        print(f"worldsim: unknown verb '{verb}'{nearest(verb, verbs)}: there is {there}", file=sys.stderr)
        return 2
    try:
        code = int(importlib.import_module(VERBS[verb][0]).main(rest))
        sys.stdout.flush()
    except BrokenPipeError:  # `worldsim ... | head`: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports the signal
    return code


def _help_text() -> str:
    verbs = "\n".join(f"  {verb:<10}{line}" for verb, (_, line) in VERBS.items())
    return f"worldsim <verb> [key=value ...]\n\n{verbs}\n\n`worldsim <verb> --help` lists a verb's settings."


if __name__ == "__main__":
    sys.exit(main())
