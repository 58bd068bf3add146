"""One root error. A mistake that a user can mend raises at configure time and says what was asked and what is possible.

Run-time faults are values (see faults.py): a control tick must not raise.
"""

from __future__ import annotations

from collections.abc import Iterable


class InternVLAError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(InternVLAError):
    """A parameter, file or combination that cannot work. Build it with `asked` where there is a list of what can."""

    @classmethod
    def asked(cls, what: str, asked: object, available: Iterable[object]) -> ConfigError:
        listed = ", ".join(str(a) for a in available) or "nothing"
        return cls(f"{what}: asked for {asked!r}, available: {listed}")


class MissingDependencyError(InternVLAError):
    """An optional package is needed and is not there."""

    def __init__(self, package: str, needed_for: str, install: str) -> None:
        super().__init__(f"{needed_for} needs {package}, which is not installed; install it with: {install}")
        self.package = package
        self.install = install


class CheckpointError(InternVLAError):
    """A weights folder that is refused: path and reason."""


class DataError(InternVLAError):
    """A data set or recording that is refused: path and reason."""
