"""What a launch file comes to once its arguments are known: the processes to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Argument:
    """One `arg` of a launch file. default None: the argument is required."""

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodePlan:
    """One process of the plan.

    parameters: in the order given, a parameter file or names with values. namespace "" is the root. where: file:line. prefix: a command
    that the node is started through, such as `nice -n 5`.
    """

    package: str
    executable: str
    where: str
    name: str = ""
    namespace: str = ""
    arguments: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    parameters: tuple[Path | dict[str, object], ...] = ()
    remaps: tuple[tuple[str, str], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    respawn: bool = False
    respawn_delay_s: float = 0.0
    shown: bool = True

    @property
    def label(self) -> str:
        """The name that people see."""
        return self.name or self.executable


@dataclass
class Plan:
    """All processes, the arguments met on the way, and what `log` actions say."""

    arguments: dict[str, Argument] = field(default_factory=dict)
    nodes: list[NodePlan] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
