"""Joint messages to arrays in the robot's own order. Joints are matched by name, never by position in the list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import FloatArray, JointState
from internvla_a1.ros.time import duration_msg, duration_s, stamp_msg, stamp_ns

_MAX_POINTS = 10_000


@dataclass(frozen=True)
class Segment:
    """A piece of trajectory. times_s: (points,) after stamp_ns, rising; positions, velocities: (points, joints).

    stamp_ns 0 means "from reception", as in ros2_controllers.
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray
    velocities: FloatArray | None = None


def order(names: Sequence[str], wanted: Sequence[str], exact: bool = False) -> NDArray[np.intp] | Refusal:
    """Index of every wanted joint in `names`. `exact` also refuses joints that were not asked for."""
    index = {name: i for i, name in enumerate(names)}
    if len(index) != len(names):
        twice = sorted({n for n in names if list(names).count(n) > 1})
        return Refusal(Reason.WRONG_JOINTS, f"named twice: {', '.join(twice)}")
    missing = [name for name in wanted if name not in index]
    if missing:
        return Refusal(Reason.WRONG_JOINTS, f"missing: {', '.join(missing)}; given: {', '.join(names) or 'none'}")
    extra = [name for name in names if name not in set(wanted)] if exact else []
    if extra:
        return Refusal(Reason.WRONG_JOINTS, f"unknown: {', '.join(extra)}; the robot has: {', '.join(wanted)}")
    return np.array([index[name] for name in wanted], dtype=np.intp)


def finite(what: str, values: Iterable[float]) -> Refusal | None:
    """A Refusal if anything in `values` is not a finite number."""
    array = np.asarray(values, dtype=np.float64)
    if np.isfinite(array).all():
        return None
    where = int(np.flatnonzero(~np.isfinite(array.ravel()))[0])
    return Refusal(Reason.NON_FINITE, f"{what}[{where}] is {array.ravel()[where]}")


def joint_state(message: JointStateMsg, joints: Sequence[str]) -> JointState | Refusal:
    """Measured joints in the order of `joints`. Other joints in the message are fine; velocities may be absent."""
    index = order(message.name, joints)
    if isinstance(index, Refusal):
        return index
    count = len(message.name)
    if len(message.position) != count:
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.position)} positions for {count} names")
    if len(message.velocity) not in (0, count):
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.velocity)} velocities for {count} names")
    positions = np.asarray(message.position, dtype=np.float64)[index]
    velocities = np.asarray(message.velocity, dtype=np.float64)[index] if len(message.velocity) else None
    bad = finite("position", positions) or (finite("velocity", velocities) if velocities is not None else None)
    return bad or JointState(stamp_ns(message.header.stamp), positions, velocities)


def joint_state_msg(state: JointState, joints: Sequence[str], effort: FloatArray | None = None) -> JointStateMsg:
    """sensor_msgs/JointState of a state in the order of `joints`."""
    message = JointStateMsg(name=list(joints), position=state.positions.tolist())
    message.header.stamp = stamp_msg(state.stamp_ns)
    if state.velocities is not None:
        message.velocity = state.velocities.tolist()
    if effort is not None:
        message.effort = effort.tolist()
    return message


def trajectory_msg(segment: Segment) -> JointTrajectory:
    """trajectory_msgs/JointTrajectory of a segment."""
    message = JointTrajectory(joint_names=list(segment.joint_names))
    if segment.stamp_ns:
        message.header.stamp = stamp_msg(segment.stamp_ns)
    velocities = [[]] * len(segment.times_s) if segment.velocities is None else segment.velocities.tolist()
    message.points = [
        JointTrajectoryPoint(positions=p, velocities=v, time_from_start=duration_msg(t))
        for t, p, v in zip(segment.times_s.tolist(), segment.positions.tolist(), velocities, strict=True)
    ]
    return message


@dataclass(frozen=True)
class Arrays:
    """A JointTrajectory in the sender's joint order, rectangular but not judged. accelerations as velocities."""

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray
    velocities: FloatArray | None = None
    accelerations: FloatArray | None = None


def arrays(message: JointTrajectory) -> Arrays | Refusal:
    """The points as arrays (points, joints). Refuses ragged rows and more than 10,000 points; velocities must be all or none."""
    points, count = message.points, len(message.joint_names)
    if len(points) > _MAX_POINTS:
        return Refusal(Reason.WRONG_SHAPE, f"{len(points)} points, possible: up to {_MAX_POINTS}")
    found: list[FloatArray | None] = []
    for field in ("positions", "velocities", "accelerations"):
        rows = [getattr(p, field) for p in points]
        given = [len(row) for row in rows]
        if not any(given):
            found.append(None)
            continue
        for k, n in enumerate(given):
            if n != count:
                return Refusal(Reason.WRONG_SHAPE, f"point {k} has {n} {field} for {count} joints")
        found.append(np.array(rows, dtype=np.float64))
    positions, velocities, accelerations = found
    if positions is None and points:
        return Refusal(Reason.WRONG_SHAPE, "the points have no positions")
    if positions is None:
        positions = np.zeros((0, count))
    times = np.array([duration_s(p.time_from_start) for p in points])
    return Arrays(stamp_ns(message.header.stamp), tuple(message.joint_names), times, positions, velocities, accelerations)


def segment(message: JointTrajectory, joints: Sequence[str], exact: bool = True) -> Segment | Refusal:
    """A trajectory in the order of `joints`: at least one point, rising times, positions everywhere, velocities all or none.

    `exact` refuses joints that are not in `joints`; a missing one is always refused.
    """
    index = order(message.joint_names, joints, exact)
    if isinstance(index, Refusal):
        return index
    raw = arrays(message)
    if isinstance(raw, Refusal):
        return raw
    if not len(raw.times_s):
        return Refusal(Reason.WRONG_SHAPE, "no points")
    if raw.times_s[0] < 0 or (np.diff(raw.times_s) <= 0).any():
        return Refusal(Reason.WRONG_SHAPE, "time_from_start does not rise")
    velocities = None if raw.velocities is None else raw.velocities[:, index]
    bad = finite("positions", raw.positions) or (finite("velocities", velocities) if velocities is not None else None)
    return bad or Segment(raw.stamp_ns, tuple(joints), raw.times_s, raw.positions[:, index], velocities)
