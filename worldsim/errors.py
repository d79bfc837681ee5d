"""Errors for people: one line that names the thing that is wrong and the way to mend it.

A command prints the message and exits with code 2; a library call raises the class.
"""

from __future__ import annotations


class WorldsimError(Exception):
    """Base of every error that worldsim raises on purpose."""


class WorldError(WorldsimError):
    """A world folder is missing, truncated, foreign, or does not fit its own config."""


class SourceError(WorldsimError):
    """A source game cannot be made or used as asked."""


class DataError(WorldsimError):
    """A recorded data set or one of its episodes cannot be read or written."""


class RunError(WorldsimError):
    """A training run folder cannot be used as asked."""


class ActionError(WorldsimError, ValueError):
    """An action has the wrong shape, dtype or range."""


class StartError(WorldsimError, ValueError):
    """Start frames or actions have the wrong shape, dtype or length, or an unknown name."""


class BackendError(WorldsimError):
    """A device, dtype or backend is not available here."""


class DisplayError(WorldsimError):
    """No window can be opened."""


class MissingExtra(WorldsimError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'worldsim[{extra}]'")
