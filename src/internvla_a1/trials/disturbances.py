"""What the soak does to the running stack: each disturbance is named, takes a few seconds at most and cleans up after itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from std_msgs.msg import Bool, Float64, String
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import ActionChunk, JointState
from internvla_a1.ros import convert, joints, qos
from internvla_a1.ros.time import stamp_msg
from internvla_a1.trials.observer import Observer

NODES = ("executor", "perception", "policy", "foresight")
_JOG_RAD = 0.15
_JOG_HZ = 50.0
_ROGUE_ID = 10**9  # chunk ids that no policy reaches

Disturbance = Callable[[Observer, np.random.Generator], str]


def kill(o: Observer, rng: np.random.Generator) -> str:
    """SIGKILL; the runner starts the node again, the lifecycle manager brings it up."""
    node = str(rng.choice([*NODES, "lifecycle_manager"]))
    _signal(o, node, signal.SIGKILL)
    return node


def pause(o: Observer, rng: np.random.Generator) -> str:
    """SIGSTOP for 0.05 to 3 s."""
    node, seconds = str(rng.choice(NODES)), float(rng.choice([0.05, 0.15, 0.5, 3.0]))
    _signal(o, node, signal.SIGSTOP)
    time.sleep(seconds)
    _signal(o, node, signal.SIGCONT)
    return f"{node} {seconds} s"


def bad_chunk(o: Observer, rng: np.random.Generator) -> str:
    """One to three chunks from a second policy: not finite, wrong joints, a jump, old, ahead, far too long, far out of range."""
    kind = str(rng.choice(["nan", "inf", "joints", "jump", "old", "ahead", "long", "far", "dt"]))
    for _ in range(int(rng.integers(1, 4))):
        o.chunks.publish(convert.chunk_msg(spoilt(here(o, rng), kind, rng)))
        time.sleep(0.05)
    return kind


def flood(o: Observer, rng: np.random.Generator) -> str:
    """Three hundred chunks as fast as they go out."""
    for k in range(300):
        o.chunks.publish(convert.chunk_msg(replace(here(o, rng), chunk_id=_ROGUE_ID + k)))
    return "300 chunks"


def bad_joint_states(o: Observer, rng: np.random.Generator) -> str:
    """A second source of joint states for 0.2 s: not finite, short, doubled, an encoder that jumps."""
    kind = str(rng.choice(["nan", "short", "twice", "glitch", "old"]))
    names, newest = o.robot.joint_names, o.measured[-1]
    q = newest.q.copy()
    if kind == "nan":
        q[int(rng.integers(len(q)))] = np.nan
    if kind == "glitch":
        q[int(rng.integers(len(q) - 1))] += rng.choice([-1.0, 1.0])
    for _ in range(int(rng.integers(1, 20))):
        stamp = o.stamp_ns - (nanoseconds(5.0) if kind == "old" else 0)
        message = joints.joint_state_msg(JointState(stamp, q, np.zeros_like(q)), names)
        message.header.frame_id = "disturbance"
        if kind == "short":
            message.position = message.position[:-1]
        if kind == "twice":
            message.name = [names[0], *names[:-1]]
        o.joint_states.publish(message)
        time.sleep(0.01)
    return kind


def takeover(o: Observer, rng: np.random.Generator) -> str:
    """A person takes the arm for 0.3 to 2 s, moves it, and lets go, or the link breaks."""
    start, seconds, joint = o.measured[-1].q, float(rng.uniform(0.3, 2.0)), int(rng.integers(6))
    began, released = time.monotonic(), bool(rng.random() < 0.5)
    while (t := time.monotonic() - began) < seconds:
        q = start.copy()
        q[joint] += _JOG_RAD * np.sin(2.0 * t)
        o.teleop.publish(joints.trajectory_msg(joints.Segment(o.stamp_ns, o.robot.joint_names, np.zeros(1), q[None])))
        time.sleep(1 / _JOG_HZ)
    if released:
        message = JointTrajectory(joint_names=list(o.robot.joint_names))
        message.header.stamp = stamp_msg(o.stamp_ns)
        o.teleop.publish(message)
    return f"{seconds:.1f} s, {'released' if released else 'link lost'}"


def emergency_stop(o: Observer, rng: np.random.Generator) -> str:
    """Pressed for 0.1 to 1 s."""
    o.estop.publish(Bool(data=True))
    time.sleep(float(rng.uniform(0.1, 1.0)))
    o.estop.publish(Bool(data=False))
    time.sleep(0.6)
    return ""


def second_commander(o: Observer, rng: np.random.Generator) -> str:
    """Another node opens the arm's command topic for 1 s, and says nothing on it."""
    intruder = o.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.RELIABLE)
    time.sleep(1.0)
    o.node.destroy_publisher(intruder)
    return ""


def toggle(o: Observer, rng: np.random.Generator) -> str:
    """Requests for every mode at 50 Hz for 1 s."""
    for _ in range(50):
        o.requests.publish(String(data=str(rng.choice(["policy", "hold", "teleop", "dance", "p" * 1000]))))
        time.sleep(0.02)
    return ""


def bad_instruction(o: Observer, rng: np.random.Generator) -> str:
    """An instruction of control characters, or of 100 kB. Whoever gave the last order repeats it after 2 s, if none has come since."""
    text, order = str(rng.choice(["\x1b[2J\x07" * 20, "put " * 25_000, "put the mauve cone in the attic"])), o.order
    o.instruction.publish(String(data=text))
    time.sleep(2.0)
    if o.order == text:
        o.instruction.publish(String(data=order))
    return f"{len(text)} characters"


def change_belt(o: Observer, rng: np.random.Generator) -> str:
    """Another belt speed, some of them not possible."""
    speed = float(rng.choice([0.05, 0.06, 0.08, 0.1, 9.0, float("nan")]))
    o.belt.publish(Float64(data=speed))
    return f"{speed} m/s"


WEIGHTS: dict[Disturbance, int] = {
    kill: 2, pause: 3, bad_chunk: 4, flood: 1, bad_joint_states: 3, takeover: 4, emergency_stop: 2, second_commander: 1, toggle: 2,
    bad_instruction: 1, change_belt: 1,
}  # fmt: skip


def draw(rng: np.random.Generator) -> Disturbance:
    """One of them, by weight."""
    kinds, weights = list(WEIGHTS), np.array(list(WEIGHTS.values()), dtype=float)
    return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]


def _signal(o: Observer, node: str, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, KeyError):  # it may be dead from the disturbance before
        os.kill(o.pids[node], number)


def here(o: Observer, rng: np.random.Generator) -> ActionChunk:
    """Thirty steps that stay where the arm is told to be."""
    status = o.status
    q = np.array(status.commanded) if status is not None and len(status.commanded) else o.measured[-1].q
    positions = np.tile(q, (30, 1))
    return ActionChunk(o.stamp_ns, _ROGUE_ID + int(rng.integers(1000)), o.robot.joint_names, o.robot.control_dt_s, positions)


def spoilt(chunk: ActionChunk, kind: str, rng: np.random.Generator) -> ActionChunk:
    positions = chunk.positions.copy()
    row, column = int(rng.integers(len(positions))), int(rng.integers(positions.shape[1]))
    if kind in ("nan", "inf"):
        positions[row, column] = np.nan if kind == "nan" else np.inf
    elif kind == "joints":
        return replace(chunk, joint_names=(*chunk.joint_names[:-1], "who"))
    elif kind == "jump":
        positions[:, :6] += rng.uniform(-0.8, 0.8, 6)
    elif kind == "far":
        positions[:, :6] = rng.choice([-100.0, 100.0], 6)
    elif kind == "old":
        return replace(chunk, stamp_ns=chunk.stamp_ns - nanoseconds(3600.0))
    elif kind == "ahead":
        return replace(chunk, stamp_ns=chunk.stamp_ns + nanoseconds(1.0))
    elif kind == "long":
        positions = np.tile(positions, (34, 1))
    elif kind == "dt":
        return replace(chunk, dt_s=10 * chunk.dt_s)
    return replace(chunk, positions=positions)
