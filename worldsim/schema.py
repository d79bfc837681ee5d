"""From plain dicts (YAML, JSON, the command line) to frozen dataclasses, with errors that name the key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from worldsim.errors import WorldsimError

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


class _Misfit(WorldsimError):
    """A value that is not of the kind its field asks for."""

    def __init__(self, path: str, value: Any, wanted: str) -> None:
        super().__init__(f"{path or 'the whole'} is {value!r}, it must be {wanted}")
        self.path = path


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from a plain dict, nested dataclasses and tuples included.

    Whole numbers pass as floats, `2e5` as an int, lists as tuples, text as paths; nothing else is converted.

    Args:
        cls: the dataclass.
        values: its fields by name.
        where: what the values came from, to begin an error with, such as a file's name.

    Raises:
        WorldsimError: an unknown or missing key, or a value its field does not take; one line names it.
    """
    try:
        return _convert(values, cls, "")
    except WorldsimError as error:
        if not where:
            raise
        raise WorldsimError(f"{where}: {error}") from error


def nearest(word: str, words: Sequence[str]) -> str:
    """` (did you mean 'x'?)` for the word most like `word`, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _convert(value: Any, hint: Any, path: str) -> Any:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return value
    if kind in (Union, UnionType):
        return _convert_union(value, arguments, path)
    if kind is Literal and value in arguments:
        return value
    if is_dataclass(kind) and isinstance(value, Mapping):
        return _build(kind, value, f"{path}." if path else "")
    if kind is tuple and isinstance(value, (list, tuple)):
        return _convert_tuple(value, arguments, path)
    if kind is list and isinstance(value, (list, tuple)):
        return [_convert(item, (arguments or (Any,))[0], f"{path}[{i}]") for i, item in enumerate(value)]
    if kind in (dict, Mapping) and isinstance(value, Mapping):
        item_hint = arguments[1] if arguments else Any
        return {key: _convert(item, item_hint, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, bool):  # a bool is an int to Python, not to people
        if kind is bool:
            return value
    elif kind is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return int(value)
    elif kind is float and isinstance(value, (int, float)):
        return float(value)
    elif kind is str and isinstance(value, (str, int)):
        return str(value)  # a world may be called 2048
    elif kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    elif (kind in (None, NoneType) and value is None) or (isinstance(kind, type) and isinstance(value, kind)):
        return value
    raise _Misfit(path, value, _describe(hint))


def _build(cls: Any, values: Mapping[str, Any], path: str) -> Any:
    known = {field.name: field for field in fields(cls) if field.init}
    for key in values:
        if key not in known:
            hint = nearest(str(key), tuple(known))
            raise WorldsimError(f"unknown key '{path}{key}'{hint}: the keys are {', '.join(known)}")
    hints = get_type_hints(cls)
    arguments = {}
    for name, field in known.items():
        if name in values:
            arguments[name] = _convert(values[name], hints[name], path + name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise WorldsimError(f"the key '{path}{name}' is missing")
    try:
        return cls(**arguments)
    except WorldsimError:
        raise
    except ValueError as error:  # what the dataclass itself has against its values
        raise WorldsimError(str(error)) from error


def _convert_tuple(value: Sequence[Any], arguments: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not arguments or arguments[-1] is Ellipsis:
        arguments = (arguments or (Any,))[:1] * len(value)
    if len(value) != len(arguments):
        raise WorldsimError(f"{path} has {len(value)} values, it must have {len(arguments)}")
    pairs = zip(value, arguments, strict=True)
    return tuple(_convert(item, hint, f"{path}[{i}]") for i, (item, hint) in enumerate(pairs))


def _convert_union(value: Any, choices: tuple[Any, ...], path: str) -> Any:
    if type(value) in choices:  # "7" stays text in `int | str`, and 7 a number
        return value
    complaint = _Misfit(path, value, " or ".join(map(_describe, choices)))
    for choice in choices:
        try:
            return _convert(value, choice, path)
        except _Misfit as misfit:
            if misfit.path != path:  # the kind was right and something inside it is not, which says more
                complaint = misfit
    raise complaint


def _describe(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind in _WORDS:
        return _WORDS[kind]
    if kind is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if kind in (tuple, list):
        return "a list"
    if kind in (Union, UnionType):
        return " or ".join(map(_describe, get_args(hint)))
    return "null" if kind in (None, NoneType) else "keys and values"
