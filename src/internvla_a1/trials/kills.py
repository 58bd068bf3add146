"""`internvla-a1 bench kills`: SIGKILL to each node in the middle of a pick. Is the arm at rest in time, does the node come back?"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from internvla_a1.trials.observer import Observer
from internvla_a1.trials.stage import running_cell
from internvla_a1.trials.system import SLACK_S, Bench

NODES = ("perception", "policy", "foresight", "executor", "lifecycle_manager")
STOPS_THE_ARM = {"perception": 0.5, "policy": 0.5, "executor": 0.2}  # node: s of motion that may follow its death, before braking
_WATCH_S = 2.5
_BACK_LIMIT_S = 30.0
_SPACING_S = 13.0  # the lifecycle manager gives up a node that dies more than five times a minute


@dataclass(frozen=True)
class Trial:
    """One kill. rest_s: from the kill until the arm stands still, infinite where it does not. promised_s: 0.2 or 0.5 s and braking.

    Both are None for a node whose death does not stop the arm.
    """

    node: str
    rest_s: float | None
    promised_s: float | None
    back_s: float | None  # until the node was active again; None if it was not
    cell_alive: bool

    @property
    def ok(self) -> bool:
        kept = self.promised_s is None or (self.rest_s is not None and self.rest_s <= self.promised_s)
        return kept and self.back_s is not None and self.cell_alive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=10, metavar="N", help="kills of each node (default: 10)")
    parser.add_argument("--nodes", nargs="+", choices=NODES, default=list(NODES), help="which nodes (default: all)")
    parser.add_argument("--belt-speed", type=float, default=0.08, metavar="M_PER_S")
    parser.add_argument("--out", type=Path, default=Path("outputs/kills"), metavar="FOLDER", help="where the nodes' output goes")


def run(args: argparse.Namespace) -> int:
    console = Console()
    trials: list[Trial] = []
    with running_cell(args.belt_speed, 0, args.out) as (observer, stack):
        bench = Bench(observer, stack, np.random.default_rng(0))
        killed = dict.fromkeys(args.nodes, float("-inf"))
        for number in range(args.trials):
            for node in args.nodes:
                time.sleep(max(0.0, killed[node] + _SPACING_S - time.monotonic()))
                bench.ready()
                killed[node] = time.monotonic()
                trial = _kill(bench, node)
                trials.append(trial)
                console.print(f"{number + 1}/{args.trials} {_line(trial)}")
    _print(console, trials, args.nodes)
    return 0 if all(t.ok for t in trials) else 1


def _kill(b: Bench, node: str) -> Trial:
    since = time.monotonic()
    pid = b.signal(node, signal.SIGKILL)
    rest: float | None = None
    promised: float | None = None
    if node in STOPS_THE_ARM:
        rest, braking = b.rest(since)
        promised = STOPS_THE_ARM[node] + braking + SLACK_S
    back = _back(b.o, node, pid, since)
    time.sleep(max(0.0, since + _WATCH_S - time.monotonic()))
    alive = bool(b.o.measured) and b.o.measured[-1].at > since + 0.8 * _WATCH_S
    return Trial(node, rest, promised, back, alive)


def _back(o: Observer, node: str, old_pid: int, killed: float) -> float | None:
    """Seconds from the kill until another process of that name is active; None if there is none in time."""
    back = o.until(lambda: o.pids[node] != old_pid and o.states[node] == "active", killed + _BACK_LIMIT_S - time.monotonic(), 0.05)
    return time.monotonic() - killed if back else None


def _line(t: Trial) -> str:
    rest = "moves on" if t.promised_s is None else f"at rest after {t.rest_s:.2f} s of {t.promised_s:.2f} s"
    back = f"back after {t.back_s:.1f} s" if t.back_s is not None else "NOT back"
    return f"{t.node}: {rest}, {back}{'' if t.cell_alive else ', the cell stopped'}"


def _print(console: Console, trials: list[Trial], nodes: list[str]) -> None:
    table = Table("killed node", "trials", "kept", "at rest after, worst", "of promised", "back after, worst")
    for node in nodes:
        own = [t for t in trials if t.node == node]
        if not own:
            continue
        stops = [t for t in own if t.promised_s is not None and t.rest_s is not None]
        worst = max(stops, key=lambda t: (t.rest_s or 0.0) - (t.promised_s or 0.0), default=None)
        rest = (f"{worst.rest_s:.2f} s", f"{worst.promised_s:.2f} s") if worst else ("unaffected", "–")
        back = [t.back_s for t in own if t.back_s is not None]
        table.add_row(node, str(len(own)), str(sum(t.ok for t in own)), *rest, f"{max(back):.1f} s" if back else "never")
    console.print(table)
    print(f"load average: {os.getloadavg()[0]:.1f}", file=sys.stderr)
