"""`internvla-a1 bench safety`: every core figure of the fault table, promised beside measured, with the load of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec, load_robot
from internvla_a1.eval import safety_rows_input, safety_rows_people, safety_rows_policy, safety_rows_system
from internvla_a1.eval.safety_figures import Figure, Row, at_most
from internvla_a1.eval.safety_rig import TICK_S, Rig
from internvla_a1.eval.safety_seams import Seam, seam_table

_MODULES = (safety_rows_input, safety_rows_policy, safety_rows_people, safety_rows_system)
_ELSEWHERE = {34: "damaged weights", 35: "hostile weights", 36: "hostile instructions"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of trials (1: 10^6 random ticks; 0.01: minutes)")
    parser.add_argument("--rows", default="", help="only these rows, e.g. 8,9,22")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures to this file, too")


def run(args: argparse.Namespace) -> int:
    """0 if every figure is within its promise, 1 otherwise."""
    if not 0 < args.scale <= 1:
        raise ConfigError(f"--scale: {args.scale} is outside (0, 1]")
    wanted = _numbers(args.rows)
    rows = rows_of(_MODULES)
    unknown = sorted(wanted - set(rows))
    if unknown:
        raise ConfigError.asked("--rows", unknown[0], rows)
    print(f"load {_load()}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'row':>3}  {'figure':<92} {'promised':>14} {'measured':>16}")
    figures, seams = [], []
    for number in sorted(wanted or rows):
        start = time.monotonic()
        for figure in rows[number](args.scale):
            _print(figure)
            figures.append(figure)
        print(f"     ({time.monotonic() - start:.0f} s, load {_load()})", file=sys.stderr)
    if not wanted:
        for figure in tick_figures():
            _print(figure)
            figures.append(figure)
        seams = seam_table()
        _print_seams(seams)
        figures += seam_figures(seams)
        print(f"elsewhere: rows {', '.join(f'{n} ({what})' for n, what in _ELSEWHERE.items())}: tests/faults")
    missed = [f for f in figures if not f.ok]
    print(f"{len(figures) - len(missed)} of {len(figures)} figures within their promise, load {_load()}")
    if args.json:
        content = {"load": os.getloadavg(), "scale": args.scale, "figures": [asdict(f) for f in figures]}
        content["seams"] = [asdict(s) for s in seams]
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    return 1 if missed else 0


def rows_of(modules: Iterable[ModuleType]) -> dict[int, Row]:
    """Row number -> the function that measures it."""
    return {int(name[4:]): getattr(m, name) for m in modules for name in dir(m) if name.startswith("row_")}


def tick_figures(ticks: int = 1500) -> list[Figure]:
    """Processor time of a tick (this thread's: other processes do not count), 7 and 14 joints."""
    two_arms = load_robot(find("config/robots/arx_lift2.yaml"))
    return [
        at_most(0, "work of a tick, 7 joints, p99", 5.0, tick_work_ms(None, ticks), "ms"),
        at_most(0, "work of a tick, 14 joints, p99", 10.0, tick_work_ms(two_arms, ticks), "ms"),
    ]


def tick_work_ms(robot: RobotSpec | None, ticks: int) -> float:
    """99th percentile, ms, while a policy's chunks are followed at 5 Hz."""
    rig, spent = Rig(robot, record=False), []
    rig.give_policy()
    for i in range(ticks):
        if i % 20 == 0:
            rig.send_chunk()
        rig.clock.advance(TICK_S)
        rig.send_state()
        start = time.thread_time()
        rig.tick()
        spent.append(1000 * (time.thread_time() - start))
    return float(np.percentile(spent, 99))


def seam_figures(seams: list[Seam]) -> list[Figure]:
    """What is promised of the seam table."""
    ours = [s for s in seams if s.method.startswith("ours")]
    blocking = {s.delay_s: s for s in seams if s.method == "blocking, limited"}
    gain = min(s.progress for s in ours if s.delay_s == 0.2) / blocking[0.2].progress
    return [
        at_most(10, "seams, all delays: largest |a| / a_max", 1.0, round(max(s.acceleration for s in ours), 6)),
        at_most(10, "seams, all delays: largest |jerk| / j_max", 1.0, round(max(s.jerk for s in ours), 6)),
        Figure(10, "speed over the path / that of blocking, limited, delay 0.2 s", ">= 1.5", f"{gain:.3g}", bool(round(gain, 6) >= 1.5)),
    ]


def _numbers(text: str) -> set[int]:
    try:
        return {int(part) for part in text.split(",") if part.strip()}
    except ValueError as error:
        raise ConfigError(f"--rows: expected numbers with commas, not {text!r}") from error


def _load() -> str:
    return "/".join(f"{x:.1f}" for x in os.getloadavg())


def _print(figure: Figure) -> None:
    mark = "" if figure.ok else "  MISSED"
    print(f"{figure.row or '':>3}  {figure.what:<92} {figure.promised:>14} {figure.measured:>16}{mark}", flush=True)


def _print_seams(seams: list[Seam]) -> None:
    print(f"\nseams: {'delay':>6}  {'method':<18} {'peak a/a_max':>13} {'peak j/j_max':>13} {'rms error':>10} {'progress':>9}")
    for s in seams:
        print(f"{s.delay_s:>11.2f} s  {s.method:<18} {s.acceleration:>13.2f} {s.jerk:>13.2f} {s.error:>10.4f} {s.progress:>9.2f}")
    print()
