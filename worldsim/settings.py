"""Settings: where things are kept, the packaged configs, and a verb's main made by Hydra.

Hydra and OmegaConf stay in this module and are imported when first needed; the rest sees plain dicts.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldsim.errors import WorldsimError
from worldsim.schema import from_dict, nearest

__all__ = ["command", "configs_folder", "defaults", "from_dict", "group_names", "home", "load_group", "unswept"]

Task = Callable[[dict[str, Any]], "int | None"]

# Flags that pass to Hydra as they are; those of the second kind take a value. Anything else is `key=value`.
_PLAIN_FLAGS = ("-m", "--multirun", "--resolve")
_VALUE_FLAGS = ("-c", "--cfg", "-p", "--package", "-i", "--info")

# A command leaves no folder of logs behind and does not change directory.
_QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")


def home() -> Path:
    """The folder for data and runs: `$WORLDSIM_HOME`, or `~/.cache/worldsim`. It need not exist yet."""
    return Path(os.environ.get("WORLDSIM_HOME") or "~/.cache/worldsim").expanduser()


def command_line() -> str:
    """The verb that is running, as anyone would type it: not where this machine was to put what it writes."""
    words = [*sys.argv[0].split(), *(word for word in sys.argv[1:] if not word.startswith(("hydra", "out=")))]
    return shlex.join(words)


def configs_folder() -> Path:
    """The folder of the packaged configs."""
    import worldsim.configs

    return Path(worldsim.configs.__path__[0])


def group_names(group: str) -> tuple[str, ...]:
    """Names of the configs in `configs/<group>/`, sorted; empty when there is no such group."""
    return tuple(sorted(path.stem for path in (configs_folder() / group).glob("*.yaml")))


def load_group(group: str, name: str) -> dict[str, Any]:
    """Read `configs/<group>/<name>.yaml` into a plain dict.

    Raises:
        WorldsimError: there is no such config; the message lists those there are.
    """
    names = group_names(group)
    if name not in names:
        there = ", ".join(names) or "none"
        raise WorldsimError(f"unknown {group} '{name}'{nearest(name, names)}: there is {there}")
    return _read(configs_folder() / group / f"{name}.yaml")


def defaults(verb: str) -> dict[str, Any]:
    """What a verb is told where nothing else is said: `configs/<verb>.yaml` as a plain dict."""
    return _read(configs_folder() / f"{verb}.yaml")


def overrides(told: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, str]:
    """What is told besides what is usual, as a command line says it: values by key, nested ones by `a.b`.

    Args:
        told: Plain values; a mapping where there usually is none is one value.
        usual: As :func:`defaults` gives them.
    """
    found: dict[str, str] = {}
    for key, value in told.items():
        before = usual.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            found |= {f"{key}.{inner}": text for inner, text in overrides(value, before).items()}
        elif key not in usual or value != before:
            found[key] = written(value)
    return found


def written(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(written, value)) + "]"
    text = "null" if value is None else str(value)
    if not isinstance(value, (str, Path)) or re.fullmatch(r"[\w./:@%+-]+", text, re.ASCII):
        return text
    # Backslashes are taken for themselves, but for those in front of a quote.
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text) + '"'


def command(config_name: str) -> Callable[[Task], Callable[..., int]]:
    """Make a verb's main of a function that takes the composed config as a plain dict.

    The main takes `argv` (default `sys.argv[1:]`) and composes `configs/<config_name>.yaml` with overrides
    through `hydra.main`, so that `-m` sweeps work. It returns the exit code: what the function returned
    (None is 0), 2 after an error that a person can mend, printed as one line, 130 after Ctrl-C.
    """

    def decorate(task: Task) -> Callable[..., int]:
        @functools.wraps(task)
        def main(argv: Sequence[str] | None = None) -> int:
            arguments = list(sys.argv[1:] if argv is None else argv)
            try:
                if "-h" in arguments or "--help" in arguments:
                    print(_help_text(config_name, task))
                    return 0
                _refuse_flags(arguments)
                return _run_hydra(config_name, task, arguments)
            except WorldsimError as error:
                return _report(config_name, str(error), 2)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                where = f" while writing {error.filename}" if error.filename else ""
                return _report(config_name, f"the disk is full{where}: free some space and run this again", 2)
            except KeyboardInterrupt:
                return _report(config_name, "stopped by Ctrl-C", 130)

        return main

    return decorate


def unswept(argv: Sequence[str]) -> list[str]:
    """Turn a sweep, `-m key=a,b,c`, into one job with lists, `key=[a,b,c]`, by Hydra's own grammar.

    For a verb that must see all of a sweep at once. Without `-m`, and where Hydra cannot read an override, the
    arguments stay as they are.
    """
    if not {"-m", "--multirun"} & set(argv):
        return list(argv)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    rest = [argument for argument in argv if argument not in ("-m", "--multirun")]
    parser, single = OverridesParser.create(), []
    for argument in rest:
        try:
            override = parser.parse_override(argument)
            if override.is_sweep_override():
                argument = f"{override.get_key_element()}=[{','.join(override.sweep_string_iterator())}]"
        except HydraException:
            pass
        single.append(argument)
    return single


def _read(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def _run_hydra(config_name: str, task: Task, arguments: list[str]) -> int:
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    codes = [0]

    def job(config: DictConfig) -> None:
        try:
            codes.append(task(plain(config)) or 0)
        except Exception as error:
            raise _Failure(error) from error

    def plain(config: DictConfig) -> dict[str, Any]:
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise WorldsimError("say " + " and ".join(f"{key}=..." for key in sorted(missing)))
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        return {str(key): value for key, value in values.items()}

    hidden = list(_QUIET)
    if "-m" in arguments or "--multirun" in arguments:  # the sweeper wants a folder for its multirun.yaml
        hidden += [f'hydra.sweep.dir="{home() / "sweeps"}"', "hydra.sweep.subdir=."]
    # Hydra is given the one config and not the folder: `source=pong` is a name for us to look up; with the
    # folder in view Hydra would take it for a choice from its group `configs/source/`, and refuse an id.
    # Without a path it would look beside this module, and take `data=...` for a choice from `worldsim/data/`.
    ConfigStore.instance().store(config_name, OmegaConf.load(configs_folder() / f"{config_name}.yaml"))
    main = hydra.main(version_base="1.3", config_path="pkg://hydra.conf", config_name=config_name)(job)
    with _program([f"worldsim {config_name}", *arguments, *hidden]):
        try:
            main()
            return max(codes)
        except _Failure as failure:
            problem = failure.error
        except HydraException as error:
            problem = error
    if isinstance(problem, (HydraException, OmegaConfBaseException)):
        raise WorldsimError(_explain(config_name, problem)) from problem
    raise problem


class _Failure(BaseException):
    """Carries a task's exception through Hydra, which would announce an `Exception` in its own words."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def _program(argv: list[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and prints errors and exits unless a variable asks it to raise them."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _refuse_flags(arguments: list[str]) -> None:
    """Answer `--frames 3` with how to write it: Hydra would print its own long usage."""
    value_follows = False
    for argument in arguments:
        if value_follows:
            value_follows = False
        elif argument.split("=")[0] in _VALUE_FLAGS:
            value_follows = "=" not in argument
        elif argument.startswith("-") and argument not in _PLAIN_FLAGS:
            key, _, value = argument.lstrip("-").partition("=")
            setting = f"{key.replace('-', '_') or 'key'}={value or '...'}"
            raise WorldsimError(f"unknown flag '{argument}': settings have no dashes, write {setting}")
        elif "=" not in argument and not argument.startswith(("~", "-")):
            raise WorldsimError(f"cannot read '{argument}': settings are written key=value")


def _explain(config_name: str, error: Exception) -> str:
    """What Hydra has against an override, in one line that says what to write."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    unknown = re.search(r"(?:Could not override|Key) '([^']+)'", text)
    if unknown:
        keys = _keys(config_name)
        return f"unknown key '{unknown[1]}'{nearest(unknown[1], keys)}: {config_name} takes {', '.join(keys)}"
    override = getattr(error, "override", None)
    if override:
        return f"cannot read '{override}': quote a value with spaces, commas or '=' twice: 'key=\"a, b\"'"
    return text


def _keys(config_name: str) -> tuple[str, ...]:
    from omegaconf import OmegaConf

    return tuple(str(key) for key in OmegaConf.load(configs_folder() / f"{config_name}.yaml"))


def _help_text(config_name: str, task: Task) -> str:
    """The verb's docstring and its config file, whose comments are the reference."""
    about = (task.__doc__ or "").strip()
    config = (configs_folder() / f"{config_name}.yaml").read_text(encoding="utf-8").strip()
    return f"""worldsim {config_name} [key=value ...]

{about}

Settings with their defaults (change one with key=value, a nested one with a.b=value):

{config}

-m with key=a,b,c runs one after another; --cfg job prints the settings and stops."""


def _report(config_name: str, message: str, code: int) -> int:
    print(f"worldsim {config_name}: {' '.join(message.split())}", file=sys.stderr)
    return code
