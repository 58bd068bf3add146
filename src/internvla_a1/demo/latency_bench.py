"""`internvla-a1 bench latency`: the path of a picture to the arm, and whether every observation arrives, at real time.

No film, no report: a listener beside the running stack. The picture's time is its stamp, the instant of the simulated state that it
shows; the command's is the reception of the first one that the executor makes from the chunk computed on that picture.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from internvla_a1_msgs.msg import Observation
from rclpy.serialization import deserialize_message
from rich.console import Console
from rich.table import Table

from internvla_a1.core.errors import InternVLAError
from internvla_a1.demo.collector import Collector, stamp_on_the_wire
from internvla_a1.demo.domain import DomainLease
from internvla_a1.demo.latency import LatencyLog, Link, servo_lag
from internvla_a1.demo.stack import Stack

LIMIT_MS = 30.0
CAMERA_HZ, JOINT_HZ = 15.0, 100.0  # of conveyor_sorting's cell
PACE_SHARE = 0.99  # of the nominal rates and of real time
_MANAGED = ("executor", "perception", "policy", "foresight")
_START_LIMIT_S = 90.0
_SETTLE_S = 3.0  # the policy has the arm; first messages and matches are over
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Flow:
    """A stream as it arrived. delivered of sent: told from the stamps, between the first and the last heard."""

    name: str
    delivered: int
    sent: int
    rate_hz: float  # by the wall clock


@dataclass(frozen=True)
class Result:
    """What was measured. cpu: share of one core, by node."""

    links: tuple[Link, ...]
    flows: tuple[Flow, ...]
    real_time_factor: float
    incomplete: int  # observations without one of their pictures, or with one of another size or instant
    stops: int
    cpu: dict[str, float]

    @property
    def p95_ms(self) -> float:
        return next((k.p95_ms for k in self.links if k.name == "camera → command without the policy"), float("inf"))

    def failures(self, limit_ms: float) -> list[str]:
        """What is not as promised."""
        observations, joints = self.flows
        checks = (
            (self.p95_ms <= limit_ms, f"camera → command without the policy: p95 {self.p95_ms:.1f} ms, at most {limit_ms:g} ms"),
            (observations.delivered == observations.sent, f"{observations.sent - observations.delivered} observations were lost"),
            (not self.incomplete, f"{self.incomplete} observations were not complete"),
            (observations.rate_hz >= PACE_SHARE * CAMERA_HZ, f"{observations.rate_hz:.2f} observations a second"),
            (joints.rate_hz >= PACE_SHARE * JOINT_HZ, f"{joints.rate_hz:.1f} joint states a second"),
            (self.real_time_factor >= PACE_SHARE, f"real-time factor {self.real_time_factor:.3f}"),
            (not self.stops, f"{self.stops} unplanned stops"),
        )
        return [text for kept, text in checks if not kept]


class Probe(Collector):
    """A collector that also keeps the stamps of the streams and looks at every observation."""

    def __init__(self, domain: int, size: int) -> None:
        self._size = size
        self.observed: list[int] = []
        self.joints: list[int] = []
        self.incomplete = 0
        super().__init__(domain, sheets=False)

    def begin(self) -> None:
        """Forget what came so far."""
        with self.lock:
            self.recording.latency = LatencyLog()
            self.observed, self.joints, self.incomplete = [], [], 0

    def _observation(self, data: bytes, now: int) -> None:
        super()._observation(data, now)
        self.observed.append(stamp_on_the_wire(data))
        message = deserialize_message(data, Observation)
        whole = len(message.images) == 3 and all(message.image_valid) and not any(message.image_age)
        fits = all((i.height, i.width, len(i.data)) == (self._size, self._size, 3 * self._size**2) for i in message.images)
        self.incomplete += not (whole and fits)

    def _joints(self, message: Any, now: int) -> None:
        super()._joints(message, now)
        self.joints.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def flow(name: str, stamps_ns: list[int], rate_hz: float, wall_s: float) -> Flow:
    """How much of a periodic stream arrived. stamps_ns: of what was heard, in any order; rate_hz: of the sender."""
    distinct = np.unique(np.asarray(stamps_ns, dtype=np.int64))
    if len(distinct) < 2:
        return Flow(name, len(distinct), max(len(distinct), round(rate_hz * wall_s)), len(distinct) / wall_s)
    sent = round((distinct[-1] - distinct[0]) / 1e9 * rate_hz) + 1
    return Flow(name, len(distinct), sent, len(distinct) / wall_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to measure (default: 60)")
    parser.add_argument("--belt-speed", type=float, default=0.08, metavar="M_PER_S")
    parser.add_argument("--seed", type=int, default=0, help="seed of parcels and orders (default: 0)")
    parser.add_argument("--limit-ms", type=float, default=LIMIT_MS, metavar="MS", help=f"promised p95 (default: {LIMIT_MS:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    parser.add_argument("--out", type=Path, default=Path("outputs/latency"), metavar="FOLDER", help="where the nodes' output goes")


def run(args: argparse.Namespace) -> int:
    with ExitStack() as closing:
        lease = DomainLease()
        closing.callback(lease.close)
        probe = Probe(lease.domain, size=224)
        closing.callback(probe.close)
        launch = {"policy": "expert", "belt_speed": f"{args.belt_speed}", "seed": f"{args.seed}"}
        stack = Stack("conveyor_sorting", launch, lease.domain, args.out / "nodes.log")
        closing.callback(stack.close)
        _hand_over(probe, stack)
        result = measure(probe, stack, args.seconds)
    failures = result.failures(args.limit_ms)
    _print(result, failures)
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return 1 if failures else 0


def measure(probe: Probe, stack: Stack, seconds: float) -> Result:
    """Listen for `seconds`; the policy gets the arm back where the executor stopped."""
    pids = dict(probe.pids)
    probe.begin()
    began, busy, stops = time.monotonic(), {n: _cpu_s(p) for n, p in pids.items()}, 0
    first = time.time_ns()
    while time.monotonic() - began < seconds:
        time.sleep(0.25)
        if not stack.running:
            raise InternVLAError(f"the stack ended:\n{stack.tail()}")
        mode, _ = probe.mode
        if mode != "policy":
            stops += 1
            _arm(probe, mode)
    wall = time.monotonic() - began
    with probe.lock:
        r = probe.recording
        passed = (r.clock.simulated_ns(time.time_ns()) or 0) - (r.clock.simulated_ns(first) or 0)
        flows = (flow("observations", probe.observed, CAMERA_HZ, wall), flow("joint states", probe.joints, JOINT_HZ, wall))
        lag = servo_lag(*_rows(r.commanded), *_rows(r.measured))
        cpu = {n: (_cpu_s(p) - busy[n]) / wall for n, p in pids.items()}
        return Result(tuple(r.latency.links(lag)), flows, passed / 1e9 / wall, probe.incomplete, stops, cpu)


def _rows(rows: list[tuple[float, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t for t, _ in rows]), np.array([q for _, q in rows])


def _hand_over(probe: Probe, stack: Stack) -> None:
    """Wait until everything is active and the policy has the arm."""
    end = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < end:
        if not stack.running:
            raise InternVLAError(f"the stack ended:\n{stack.tail()}")
        ready = all(probe.states.get(n) == "active" for n in _MANAGED) and bool(probe.observed)
        mode, _ = probe.mode
        if ready and mode == "policy":
            time.sleep(_SETTLE_S)
            return
        if ready:
            _arm(probe, mode)
        time.sleep(0.2)
    raise InternVLAError(f"the policy did not get the arm within {_START_LIMIT_S:g} s:\n{stack.tail()}")


def _arm(probe: Probe, mode: str) -> None:
    if mode == "fault":
        probe.clear_fault(2.0)
    probe.request_mode("policy", 2.0)


def _cpu_s(pid: int) -> float:
    """Processor time of a process, all threads; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _print(result: Result, failures: list[str]) -> None:
    console = Console()
    table = Table("link", "median, ms", "95 %, ms", "worst, ms", "samples")
    for k in result.links:
        table.add_row(k.name, f"{k.p50_ms:.1f}", f"{k.p95_ms:.1f}", f"{k.worst_ms:.1f}", str(k.count))
    console.print(table)
    for f in result.flows:
        console.print(f"{f.name}: {f.delivered} of {f.sent} delivered, {f.rate_hz:.2f} Hz")
    console.print(f"real-time factor {result.real_time_factor:.3f}, {result.stops} unplanned stops")
    console.print("processor, % of a core: " + ", ".join(f"{n} {100 * c:.0f}" for n, c in sorted(result.cpu.items())))
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, load average {os.getloadavg()[0]:.1f}")
    console.print("every figure is as promised" if not failures else "not as promised: " + "; ".join(failures))
