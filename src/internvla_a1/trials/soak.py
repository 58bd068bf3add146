"""`internvla-a1 bench soak`: the conveyor demo for a long time, with a random fault every 5 to 15 s, through real processes."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.demo.stack import Stack
from internvla_a1.trials.disturbances import NODES, draw
from internvla_a1.trials.observer import Observer
from internvla_a1.trials.resources import Resources
from internvla_a1.trials.soak_report import Verdict, judge, plot
from internvla_a1.trials.stage import running_cell

_START_LIMIT_S = 90.0
_UNARMED_S = 0.8  # a person gives the arm back this long after a stop
_SAMPLE_S = 5.0
_PAUSES_S = (5.0, 15.0)


@dataclass
class Event:
    """One disturbance. at_s: since the start. back_s: from its end until the policy had the arm again; None if it never lost it."""

    at_s: float
    kind: str
    detail: str
    back_s: float | None = None


@dataclass
class Log:
    """What happened. Rows of score: s since the start, right, wrong, missed; of violations: s, position, velocity, acceleration."""

    seed: int
    minutes: float
    events: list[Event] = field(default_factory=list)
    score: list[tuple[float, int, int, int]] = field(default_factory=list)
    violations: list[tuple[float, int, int, int]] = field(default_factory=list)
    peaks: tuple[float, float] = (0.0, 0.0)  # velocity, acceleration, as a share of the limit
    rearmed: int = 0
    armed_share: float = 0.0
    load: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0, metavar="M", help="how long (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults and of the cell (default: 0)")
    parser.add_argument("--belt-speed", type=float, default=0.06, metavar="M_PER_S")
    parser.add_argument("--out", type=Path, default=Path("outputs/soak"), metavar="FOLDER", help="soak.json, soak.png, nodes.log")


def run(args: argparse.Namespace) -> int:
    """0 without violations, with flat memory, descriptors and threads, and with parcels sorted all along; else 1."""
    if not 0 < args.minutes <= 24 * 60:
        raise ConfigError(f"--minutes: {args.minutes} is outside (0, 1440]")
    console = Console()
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.seed, args.minutes)
    resources = Resources()
    with running_cell(args.belt_speed, args.seed, args.out) as (observer, stack):
        _Soak(observer, stack, log, resources, console).play()
    verdict = judge(log, resources)
    content = {"verdict": asdict(verdict), "log": asdict(log), "resources": resources.rows()}
    (args.out / "soak.json").write_text(json.dumps(content) + "\n")
    plot(log, resources, args.out / "soak.png")
    _print(console, log, verdict, args.out)
    return 0 if verdict.ok else 1


class _Soak:
    """One run: draws faults, gives the arm back, samples."""

    def __init__(self, observer: Observer, stack: Stack, log: Log, resources: Resources, console: Console) -> None:
        self._o, self._stack, self._log, self._resources, self._console = observer, stack, log, resources, console
        self._rng = np.random.default_rng(log.seed)
        self._unarmed: float | None = None
        self._armed_s, self._last = 0.0, 0.0
        self._next_sample = 0.0

    def play(self) -> None:
        if not self._o.until(lambda: all(self._o.states.get(n) == "active" for n in NODES), _START_LIMIT_S):
            raise InternVLAError(f"not all nodes are active after {_START_LIMIT_S:g} s:\n{self._stack.tail()}")
        self._began = self._last = time.monotonic()
        end = self._began + 60.0 * self._log.minutes
        due = self._began + _PAUSES_S[1]
        while (now := time.monotonic()) < end:
            self._attend(now)
            if now >= due and end - now > _PAUSES_S[1]:  # the last of them is seen to its end
                self._disturb(now)
                due = time.monotonic() + float(self._rng.uniform(*_PAUSES_S))
            time.sleep(0.05)
        self._log.armed_share = self._armed_s / (time.monotonic() - self._began)

    def _disturb(self, now: float) -> None:
        disturbance = draw(self._rng)
        detail = disturbance(self._o, self._rng)
        self._log.events.append(Event(round(now - self._began, 2), disturbance.__name__, detail))
        self._disturbed = time.monotonic()

    def _attend(self, now: float) -> None:
        """What a person beside the cell does: after a stop, reset and give the arm back. And the books are kept."""
        if not self._stack.running:
            raise InternVLAError(f"the stack ended:\n{self._stack.tail()}")
        mode = self._o.mode
        if mode == "policy":
            self._armed_s += now - self._last
            if self._unarmed is not None and self._log.events:
                self._log.events[-1].back_s = round(now - self._disturbed, 2)
            self._unarmed = None
        elif self._unarmed is None:
            self._unarmed = now
        elif now - self._unarmed > _UNARMED_S:
            if mode in ("fault", "estop"):
                self._o.clear_fault(1.0)
            self._log.rearmed += not self._o.request_mode("policy", 1.0)
            self._unarmed = time.monotonic()
        self._last = now
        if now >= self._next_sample:
            self._next_sample = now + _SAMPLE_S
            self._sample(now - self._began)

    def _sample(self, at_s: float) -> None:
        heaps = {node: float(told["heap_mb"]) for node, told in list(self._o.diagnostics.items()) if "heap_mb" in told}
        self._resources.sample(at_s, {**self._o.pids, "runner": self._stack.pid}, heaps)
        self._log.score.append((round(at_s, 1), *self._o.score[1:]))
        cell = self._o.diagnostics.get("cell", {})
        counts = [int(cell.get(f"limit_violations/{kind}", 0)) for kind in ("position", "velocity", "acceleration")]
        self._log.violations.append((round(at_s, 1), counts[0], counts[1], counts[2]))
        self._log.peaks = float(cell.get("peak_velocity_share", 0.0)), float(cell.get("peak_acceleration_share", 0.0))
        self._log.load.append(round(os.getloadavg()[0], 2))
        if len(self._log.score) % 12 == 0:
            _, right, wrong, missed = self._log.score[-1]
            self._console.print(
                f"{at_s / 60:5.1f} min: {len(self._log.events)} faults, {right} right, {wrong} wrong, {missed} missed, "
                f"violations {sum(counts)}, mode {self._o.mode}, load {self._log.load[-1]}"
            )


def _print(console: Console, log: Log, verdict: Verdict, out: Path) -> None:
    for line in verdict.lines:
        console.print(line, soft_wrap=True, highlight=False)
    word = "[bold green]kept[/]" if verdict.ok else "[bold red]MISSED[/]"
    console.print(f"{word}: {out / 'soak.json'}, {out / 'soak.png'}")
