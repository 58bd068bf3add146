"""Rows 26 to 38 of the fault table, as far as they concern the core: clocks, partitions, floods, parameters, out of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.interface import Mode
from internvla_a1.core.clock import NS, nanoseconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Reason
from internvla_a1.eval.safety_figures import Figure, at_most, exactly, trials
from internvla_a1.eval.safety_rig import TICK_S, Rig
from internvla_a1.perception.config import PerceptionConfig


def row_26(scale: float) -> list[Figure]:
    """Wall time steps by an hour."""
    different = 0
    for jump in (3600.0, -3600.0):
        rig, twin = Rig().moving(1.0), Rig().moving(1.0)
        path = _steady_path(rig)
        for i in range(200):
            if i == 60:
                rig.jump(jump)
                if rig.arm.segment is not None:  # the controller, too, runs on
                    rig.arm.segment = replace(rig.arm.segment, stamp_ns=rig.arm.segment.stamp_ns + nanoseconds(jump))
            if i % 20 == 0:
                for r in (rig, twin):
                    r.send_chunk(path=path(r, i))
            different += not np.array_equal(rig.step().status.commanded, twin.step().status.commanded)
            different += rig.mode is not Mode.POLICY
    return [exactly(26, "ticks that differ from those without a step, +1 h and -1 h", 0, different)]


def _steady_path(_: Rig) -> Callable[[Rig, int], Callable[[Any], Any]]:
    """Paths that do not depend on the stamp, so that both rigs are asked for the same."""

    def path(rig: Rig, i: int) -> Callable[[Any], Any]:
        lower, upper = rig.robot.array("lower"), rig.robot.array("upper")
        return lambda t: (lower + upper) / 2 + np.outer(np.sin(0.02 * i + 0.1 * np.arange(len(t))), 0.1 * (upper - lower))

    return path


def row_27(scale: float) -> list[Figure]:
    """Simulated time jumps back, or ahead by more than 0.1 s."""
    stale, unheld, quiet, held = 0, 0, 0, 0
    config = ExecutorConfig(use_sim_time=True)
    for jump in (-10.0, -0.02, 0.11, 60.0) * trials(5, scale, 1):
        rig = Rig(config=config).moving(1.0)
        old = rig.make_chunk()
        rig.jump(jump)
        if rig.arm.segment is not None:
            rig.arm.segment = replace(rig.arm.segment, stamp_ns=rig.arm.segment.stamp_ns + nanoseconds(jump))
        rig.step()
        unheld += rig.mode is not Mode.HOLD or not any(f.reason is Reason.CLOCK_JUMP for f in rig.out.faults)
        unheld += rig.until_rest() == float("inf")
        held += rig.out.status.chunk_id != 0
        rig.step(5)
        rig.give_policy()
        stale += rig.executor.on_chunk(old, rig.now) is None
        stale += rig.step(10).status.moving
    rig = Rig(config=config).moving(1.0)
    rig.jump(0.08)
    rig.step()
    quiet += rig.mode is not Mode.POLICY
    return [
        exactly(27, "commands from the old epoch", 0, stale),
        exactly(27, "chunks still held after a jump", 0, held),
        exactly(27, "jumps that did not end in HOLD, at rest", 0, unheld),
        exactly(27, "a step of 0.08 s that stopped the arm", 0, quiet),
    ]


def row_28(scale: float) -> list[Figure]:
    """The simulated clock stops."""
    rig = Rig(config=ExecutorConfig(use_sim_time=True)).moving(1.0)
    rig.send_chunk()  # the newest news from everybody else is of the moment at which time stops
    since = rig.now.steady_ns
    rig.while_in(Mode.POLICY, stamps=False)
    held = round((rig.now.steady_ns - since) / NS, 6)
    names = [f.reason for f in rig.out.faults]
    return [exactly(28, "HOLD after, s", 0.5, held), exactly(28, "named", True, Reason.CLOCK_STOPPED in names)]


def row_29(scale: float) -> list[Figure]:
    """A recording is replayed near a real arm."""
    rig = Rig()
    rig.step(3)
    names, q = rig.robot.joint_names, rig.measured()
    old = rig.executor.on_joint_state(names, q + 0.5, rig.now.stamp_ns - nanoseconds(3600), rig.now)
    teleop_rig = Rig().moving(0.5)
    command = teleop_rig.now.stamp_ns - nanoseconds(1.01)
    from internvla_a1.control.interface import TeleopCommand

    taken = teleop_rig.executor.on_teleop(TeleopCommand(command, names, q), teleop_rig.now)
    rig.give_policy()
    chunk = rig.executor.on_chunk(replace(rig.make_chunk(), stamp_ns=rig.now.stamp_ns - nanoseconds(3600)), rig.now)
    sim = Rig(config=ExecutorConfig(use_sim_time=True))
    sim.step(3)
    allowed = sim.executor.on_joint_state(names, q, sim.now.stamp_ns + 1, sim.now)
    return [
        exactly(29, "joint state of an hour ago", "stamp_old", old.reason.value if old else "taken"),
        exactly(29, "teleop command of 1.01 s ago", "stamp_old", taken.reason.value if taken else "taken"),
        exactly(29, "chunk of an hour ago refused", True, chunk is not None),
        exactly(29, "with simulated time the joint state is taken", None, allowed),
    ]


def row_30(scale: float) -> list[Figure]:
    """A partition, then it heals."""
    rig = Rig().moving(1.0)
    rig.state_alive = False
    rig.step(300)
    held = rig.mode is Mode.HOLD
    rig.state_alive = True
    moved = 0
    for i in range(100):
        if i % 10 == 0:
            rig.send_chunk()
        moved += rig.step().status.moving
    armed = rig.give_policy() is None
    rig.run_policy(0.5)
    return [
        exactly(30, "HOLD after 3 s of silence", True, held),
        exactly(30, "ticks in motion after it healed, before it was armed", 0, moved),
        exactly(30, "armed without a restart, and moves", True, armed and rig.out.status.moving),
    ]


def row_31(scale: float) -> list[Figure]:
    """A second publisher on the command topic."""
    rig = Rig().moving(1.0)
    rig.executor.on_publishers(2, rig.now)
    rig.step()
    named = rig.mode is Mode.FAULT and "2 publishers" in rig.out.handover.reason
    rest = rig.until_rest()
    refused = rig.executor.on_clear_fault(rig.now) is not None
    rig.executor.on_publishers(1, rig.now)
    rig.step()
    return [
        exactly(31, "FAULT at the next tick, with the count", True, named),
        at_most(31, "at rest", 1.0, rest, "s"),
        exactly(31, "reset refused while there, granted after", True, refused and rig.executor.on_clear_fault(rig.now) is None),
    ]


def row_32(scale: float) -> list[Figure]:
    """A flood: every input at many times its rate, chunks of 1,000 steps."""
    calm, flooded = _work((1, 60), scale)
    rig = Rig().moving(0.5)
    long = rig.make_chunk()
    long = replace(long, positions=np.tile(long.positions[:1], (1000, 1)))
    refused = rig.executor.on_chunk(long, rig.now)
    return [
        exactly(32, "a chunk of 1,000 steps", "wrong_horizon", refused.reason.value if refused else "taken"),
        at_most(32, "work of a tick under a flood, times that without", 1.5, round(flooded / calm, 3)),
    ]


def _work(times: tuple[int, ...], scale: float) -> list[float]:
    """Processor time of ticks, s each on average, with every message sent so many times. Side by side, for a machine's pace varies."""
    rigs = [Rig(record=False).moving(0.3) for _ in times]
    spent = np.empty((trials(400, scale, 160), len(times)))
    for i in range(len(spent)):
        for k, (rig, many) in enumerate(zip(rigs, times, strict=True)):
            if i % 10 == 0:
                for _ in range(many):
                    rig.send_chunk()
            rig.clock.advance(TICK_S)
            for _ in range(many):
                rig.send_state()
            start = time.thread_time()
            rig.tick()
            spent[i, k] = time.thread_time() - start
    return spent.mean(axis=0).tolist()


def row_33(scale: float) -> list[Figure]:
    """A parameter out of range, NaN, of the wrong type, misspelt, missing."""
    let_in, unclear, tried = [], [], 0
    for kind in (ExecutorConfig, PerceptionConfig):
        for f in fields(kind):
            if "min" in f.metadata:
                bad: list[object] = [f.metadata["max"] * 2 + 1, f.metadata["min"] - 1, float("nan"), "text", None, float("inf"), True]
            else:
                bad = ["text", None, 7, float("nan"), []]
            for value in bad:
                tried += 1
                try:
                    parameters: dict[str, Any] = {f.name: value}
                    kind(**parameters)
                    let_in.append((f.name, value))
                except ConfigError as error:
                    if f.name not in str(error):
                        unclear.append((f.name, value))
    try:
        ExecutorConfig(cover=0.2)  # type: ignore[call-arg]
        let_in.append(("cover", 0.2))
    except TypeError:
        tried += 1
    return [
        exactly(33, f"let in, of {tried} mistakes in the parameters of executor and perception", [], let_in),
        exactly(33, "messages that do not name the parameter", [], unclear),
    ]


def row_37(scale: float) -> list[Figure]:
    """The device is out of memory, or its driver is gone: no chunk comes, the executor does as in row 13."""
    rig = Rig().moving(1.0)
    rig.step(60)
    held = rig.mode is Mode.HOLD and any(f.reason is Reason.CHUNK_LOST for f in rig.out.faults)
    rig.give_policy()
    rig.run_policy(0.5)
    return [exactly(37, "HOLD, named, and on again when armed", True, held and rig.out.status.moving)]


def row_38(scale: float) -> list[Figure]:
    """The disk is full: nothing between a chunk and the arm touches one."""
    import internvla_a1.control as control

    touching = [
        path.name
        for path in sorted(Path(control.__path__[0]).glob("*.py"))
        if any(word in path.read_text() for word in ("open(", "write_text", "write_bytes", "import logging", "tempfile", "print("))
    ]
    return [exactly(38, "files of control/ that use the disk", [], touching)]
