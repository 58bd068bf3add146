"""Where the tool goes in a chunk, and where its gripper opens and closes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk, FloatArray

ToolPosition = Callable[[str, FloatArray], FloatArray]
"""(tool frame, joint positions (joints,) in rad or m) -> tool position (3,) in m in the robot's base frame."""


@dataclass(frozen=True)
class GripperEvent:
    """The gripper begins to open or close at step `step` of the chunk."""

    step: int
    opens: bool


@dataclass(frozen=True)
class ToolPath:
    """One tool's way through a chunk.

    points: (steps, 3) m in the base frame. times_s: (steps,) s after the observation of the chunk.
    """

    group: str
    points: FloatArray
    times_s: FloatArray
    gripper: tuple[GripperEvent, ...]


def tool_paths(chunk: ActionChunk, robot: RobotSpec, tool_position: ToolPosition) -> list[ToolPath]:
    """One path per group of the robot that has a tool frame. The chunk is in the robot's own joint order."""
    times = np.arange(1.0, chunk.steps + 1.0, dtype=np.float64) * chunk.dt_s
    paths = []
    for group in robot.groups:
        if not group.tool_frame:
            continue
        points = np.array([tool_position(group.tool_frame, row) for row in chunk.positions]).reshape(-1, 3)
        paths.append(ToolPath(group.name, points, times, _group_events(chunk, robot, group.name)))
    return paths


def _group_events(chunk: ActionChunk, robot: RobotSpec, group: str) -> tuple[GripperEvent, ...]:
    """Events of the gripper joints of a group; those of a robot with one tool may sit in a group of their own."""
    tools = sum(1 for g in robot.groups if g.tool_frame)
    events: list[GripperEvent] = []
    for column, joint in enumerate(robot.joints):
        if joint.gripper and (joint.group == group or tools == 1):
            openness = (chunk.positions[:, column] - joint.lower) / (joint.upper - joint.lower)
            events += gripper_events(openness)
    return tuple(sorted(set(events), key=lambda e: e.step))


def gripper_events(openness: FloatArray, threshold: float = 0.15) -> list[GripperEvent]:
    """Steps where the gripper begins a movement of more than `threshold` of its stroke.

    openness: (steps,), 0 closed to 1 open. Small tremors of the policy are not events: a turn counts only once the
    gripper has gone `threshold` past its last extreme, and is then dated back to that extreme.
    """
    events: list[GripperEvent] = []
    direction = 0  # +1 opening, -1 closing, 0 not known yet
    low = high = 0  # steps of the extremes since the last event
    for step, value in enumerate(openness):
        if value <= openness[low]:
            low = step
        if value >= openness[high]:
            high = step
        if direction <= 0 and value - openness[low] > threshold:
            events.append(GripperEvent(low, opens=True))
            direction, high = 1, step
        elif direction >= 0 and openness[high] - value > threshold:
            events.append(GripperEvent(high, opens=False))
            direction, low = -1, step
    return events


def time_colors(times_s: FloatArray, first: tuple[float, float, float] = (0.1, 0.9, 0.3),
                last: tuple[float, float, float] = (0.9, 0.1, 0.8)) -> FloatArray:
    """(steps, 3) RGB in 0..1, running from `first` (now) to `last` (the end of the chunk)."""
    span = times_s[-1] - times_s[0] if len(times_s) > 1 else 1.0
    part = ((times_s - times_s[0]) / (span or 1.0))[:, None]
    return (1 - part) * np.array(first) + part * np.array(last)
