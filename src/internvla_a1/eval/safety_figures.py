"""One measured figure of the fault table, beside what is promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """row: of docs/safety.md. promised and measured: text for people; ok: whether the second is within the first."""

    row: int
    what: str
    promised: str
    measured: str
    ok: bool


def at_most(row: int, what: str, limit: float, measured: float, unit: str = "") -> Figure:
    """A measured number that must not be above a limit."""
    return Figure(row, what, f"<= {limit:g} {unit}".rstrip(), f"{measured:.4g} {unit}".rstrip(), bool(measured <= limit))


def exactly(row: int, what: str, promised: object, measured: object) -> Figure:
    """A count or a name that must be as promised."""
    return Figure(row, what, str(promised), str(measured), bool(promised == measured))


Row = Callable[[float], list[Figure]]  # scale: 1 for the full number of trials, less for a quick run


def trials(full: int, scale: float, least: int = 1) -> int:
    """How many of `full` trials to run."""
    return max(least, round(full * scale))
