"""`internvla-a1 bench kills`: SIGKILL to each node in the middle of a pick. Is the arm at rest in time, does the node come back?"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from internvla_a1.core.errors import InternVLAError
from internvla_a1.demo.collector import Collector
from internvla_a1.demo.domain import DomainLease
from internvla_a1.demo.stack import Stack

NODES = ("perception", "policy", "foresight", "executor", "lifecycle_manager")
STOPS_THE_ARM = {"perception": 0.5, "policy": 0.5, "executor": 0.2}  # node: s of motion that may follow its death, before braking
_MANAGED = ("executor", "perception", "policy", "foresight")
_STOP_RAD_S2 = 4.0
_SLACK_S = 0.06
_AT_REST_RAD_S = 0.02
_MOVING_RAD_S = 0.4
_WATCH_S = 2.5
_BACK_LIMIT_S = 30.0
_SPACING_S = 13.0  # the lifecycle manager gives up a node that dies more than five times a minute


@dataclass(frozen=True)
class Trial:
    """One kill. rest_s: from the kill to the last motion; None where the arm moved on. promised_s: 0.2 or 0.5 s and the braking time."""

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
    with ExitStack() as closing:
        lease = DomainLease()
        closing.callback(lease.close)
        collector = Collector(lease.domain)
        closing.callback(collector.close)
        stack = Stack("conveyor_sorting", {"policy": "expert", "belt_speed": f"{args.belt_speed}"}, lease.domain, args.out / "nodes.log")
        closing.callback(stack.close)
        killed = dict.fromkeys(args.nodes, float("-inf"))
        for number in range(args.trials):
            for node in args.nodes:
                time.sleep(max(0.0, killed[node] + _SPACING_S - time.monotonic()))
                _until_picking(collector, stack)
                killed[node] = time.monotonic()
                trial = _kill(collector, node)
                trials.append(trial)
                console.print(f"{number + 1}/{args.trials} {_line(trial)}")
    _print(console, trials, args.nodes)
    return 0 if all(t.ok for t in trials) else 1


def _until_picking(collector: Collector, stack: Stack) -> None:
    """Everything active, the policy has the arm, the arm moves."""
    end = time.monotonic() + 120.0
    while time.monotonic() < end:
        if not stack.running:
            raise InternVLAError(f"the stack ended:\n{stack.tail()}")
        with collector.lock:
            states = dict(collector.recording.states)
        mode, _ = collector.mode
        if all(states.get(n) == "active" for n in _MANAGED):
            if mode == "fault":
                collector.clear_fault(2.0)
            elif mode != "policy":
                collector.request_mode("policy", 2.0)
            elif _speeds(collector, 0.1)[1].max(initial=0.0) > _MOVING_RAD_S:
                return
        time.sleep(0.05)
    raise InternVLAError(f"the arm did not begin to pick within 120 s:\n{stack.tail()}")


def _speeds(collector: Collector, last_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Simulated times (n,) and the fastest joint's speed (n,), rad/s, of the last stretch."""
    with collector.lock:
        rows = collector.recording.measured[-int(last_s * 100) - 2 :]  # joint states come at 100 Hz
        arm = [k for k, name in enumerate(collector.recording.joint_names) if "gripper" not in name]
    if len(rows) < 3:
        return np.zeros(0), np.zeros(0)
    times = np.array([t for t, _ in rows])
    positions = np.array([p for _, p in rows])[:, arm]
    step = np.maximum(np.diff(times), 1e-3)
    return times[1:], np.abs(np.diff(positions, axis=0) / step[:, None]).max(axis=1)


def _kill(collector: Collector, node: str) -> Trial:
    with collector.lock:
        pid = collector.recording.pids[node]
    killed_ns = time.time_ns()
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(_WATCH_S)
    with collector.lock:
        at = collector.recording.clock.simulated_ns(killed_ns)
    times, speeds = _speeds(collector, _WATCH_S)
    after = times * 1e9 > (at or 0)
    moving = times[after][speeds[after] > _AT_REST_RAD_S]
    rest = float(moving[-1] - (at or 0) / 1e9) if len(moving) else 0.0
    cell_alive = bool(len(times)) and collector.recording.measured[-1][0] - (at or 0) / 1e9 > 0.8 * _WATCH_S
    promised = None
    if node in STOPS_THE_ARM:
        promised = STOPS_THE_ARM[node] + float(speeds[after].max(initial=0.0)) / _STOP_RAD_S2 + _SLACK_S
    return Trial(node, rest if node in STOPS_THE_ARM else None, promised, _back(collector, node, pid, killed), cell_alive)


def _back(collector: Collector, node: str, old_pid: int, killed: float) -> float | None:
    while time.monotonic() - killed < _BACK_LIMIT_S:
        with collector.lock:
            state, pid = collector.recording.states.get(node), collector.recording.pids.get(node)
        if pid != old_pid and state == "active":
            return time.monotonic() - killed
        time.sleep(0.05)
    return None


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
