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

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.eval import safety_rows_input, safety_rows_people, safety_rows_policy, safety_rows_system
from internvla_a1.eval.arms import collision_gate
from internvla_a1.eval.bench_collision import READY, DualArm
from internvla_a1.eval.safety_figures import Figure, Row, at_most, trials
from internvla_a1.eval.safety_handover import MOMENTS, handover_figures
from internvla_a1.eval.safety_rig import TICK_S, Rig, demo_robot
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
        for figure in [*handover_figures(trials(MOMENTS, args.scale, 20)), *tick_figures()]:
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
    """Processor time of a tick (this thread's: other processes do not count), with the collision gate on: one arm, two arms.

    The gate works when a chunk arrives, between two ticks: `internvla-a1 bench collision` times it.
    """
    one, two = demo_robot(), DualArm.load()
    gate = collision_gate(one)
    figures = []
    for limit, robot, checked_by, about in ((5.0, one, gate, one.array("home")), (10.0, two.robot, two.gate(), np.array(READY * 2))):
        took = tick_work_ms(robot, checked_by, about, ticks)
        figures.append(at_most(0, f"work of a tick, {len(robot.joints)} joints, collision gate on, p99", limit, took, "ms"))
    return figures


def tick_work_ms(robot: RobotSpec, gate: CollisionGate, about: FloatArray, ticks: int) -> float:
    """99th percentile, ms, while chunks of a quick motion about a posture (joints,) are followed at 5 Hz, each checked by the gate.

    Raises InternVLAError where the gate cuts one: there would be less to do.
    """
    rig, spent = Rig(robot, collision=gate, start=about, record=False), []
    swing = np.where(robot.gripper_mask, 0.0, 0.15)
    rig.give_policy()
    for i in range(ticks):
        if i % 20 == 0:
            rig.send_chunk(path=lambda t: about + swing * np.sin(6.0 * t[:, None]))
        rig.clock.advance(TICK_S)
        rig.send_state()
        start = time.thread_time()
        rig.tick()
        spent.append(1000 * (time.thread_time() - start))
    if rig.executor.refusals["collision"]:
        raise InternVLAError(f"the gate cut chunks of the bench: {rig.out.status.last_rejection}")
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
