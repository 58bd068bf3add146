"""Admission of what would move the arm along a path: collision check of chunks, plausibility of planned motions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.gate import TimedChunk, finite
from internvla_a1.control.interface import Mode, PlannedMotion
from internvla_a1.control.limits import Limits
from internvla_a1.control.supervisor import Supervisor
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray


@dataclass(frozen=True)
class Place:
    """Where the arm is told to be now, and where its present plan comes to rest: (joints,) each."""

    now: FloatArray
    rest: FloatArray


def admit_chunk(
    chunk: TimedChunk, place: Place, motion_ns: int, limits: Limits, gate: CollisionGate | None, gripper: np.ndarray
) -> TimedChunk | Refusal:
    """The chunk inside the position limits, up to its last safe waypoint; from there on the arm stays, and its grippers go on.

    A hand that comes a little too near to what it picks from can still close. Refused only where not even staying is safe. An arm that an
    emergency stop left within the gate's margin may be led out of it.
    gripper: (joints,) bool. Limited before it is interpolated: a cubic through a waypoint far outside would swing the other way
    before it.
    """
    inside = np.clip(chunk.positions, limits.lower, limits.upper)
    chunk = replace(chunk, positions=inside, limited=not np.array_equal(inside, chunk.positions))
    if gate is None:
        return chunk
    ahead = chunk.remaining_from(motion_ns)
    result = gate.check(place.now, chunk.positions[ahead:], leaving=True)
    if result.safe == chunk.steps - ahead:
        return chunk
    first = ahead + result.safe
    before, last = (chunk.positions[first - 1],) * 2 if result.safe else (place.now, place.rest)
    staying = np.where(gripper, chunk.positions[first:], last)
    still = gate.check(before, staying, leaving=True).safe
    if result.safe + still == 0:
        return Refusal(Reason.COLLISION, f"chunk {chunk.chunk_id}: already its next waypoint, step {ahead}: {result.hit}")
    positions = np.concatenate([chunk.positions[:first], staying[:still]])
    return replace(chunk, positions=positions, held_from=first, held=~gripper)


def admit_motion(
    motion: PlannedMotion,
    supervisor: Supervisor,
    measured: FloatArray | None,
    config: ExecutorConfig,
    robot: RobotSpec,
) -> Refusal | None:
    """Why a planned motion is refused: wrong mode, wrong shape, not finite, or not starting where the arm is."""
    blocking = supervisor.blocking()
    if supervisor.mode is not Mode.HOLD or blocking is not None:
        return Refusal(Reason.NOT_ALLOWED, f"a planned motion needs HOLD without faults, now {supervisor.mode.name}: {blocking or ''}")
    if measured is None:
        return Refusal(Reason.NOT_ALLOWED, "no joint state yet")
    points = np.shape(motion.positions)
    if len(points) != 2 or points[1] != len(robot.joints) or np.shape(motion.times_s) != (points[0],) or points[0] < 2:
        return Refusal(Reason.WRONG_SHAPE, f"positions {points}, times {np.shape(motion.times_s)}, for {len(robot.joints)} joints")
    refusal = finite(motion.positions)
    if refusal is not None:
        return refusal
    if not np.isfinite(motion.times_s).all() or np.any(np.diff(motion.times_s) <= 0):
        return Refusal(Reason.WRONG_HORIZON, "times must rise")
    name, off = far_from(motion.positions[0], measured, robot)
    if off > config.start_tolerance:
        return Refusal(Reason.FIRST_COMMAND_JUMP, f"{name} is {off:.4f} from the start, at most {config.start_tolerance}")
    return None


def far_from(start: FloatArray, measured: FloatArray, robot: RobotSpec) -> tuple[str, float]:
    """The joint that is furthest from where a path starts, and how far; a gripper may be held off by its object."""
    off = np.where(robot.gripper_mask, 0.0, np.abs(start - measured))
    worst = int(np.argmax(off))
    return robot.joint_names[worst], float(off[worst])
