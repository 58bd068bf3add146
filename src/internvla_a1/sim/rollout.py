"""The expert's own model of what its commands do: a tool with bounded speed and acceleration, rolled forward to a path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.types import FloatArray
from internvla_a1.sim.grasp import Grasp, Workspace


@dataclass(frozen=True)
class Motion:
    """Tool limits (m/s, m/s², rad/s, rad/s²) and heights (m). Slower than what the joints could, so that the executor limits nothing."""

    speed: float = 0.52
    swing: float = 1.5  # rad/s about the column
    lift_speed: float = 0.45
    acceleration: float = 1.8
    turn_speed: float = 1.5
    turn_acceleration: float = 8.0
    finger_speed: float = 0.20
    finger_acceleration: float = 2.2
    gain: float = 7.0
    open: float = 0.040
    squeeze: float = 0.010  # how far inside the parcel's half width the fingers are sent
    carry_z: float = 0.23
    release_z: float = 0.140
    funnel: float = 0.10  # height of the hand over the grasp while it is not above the parcel
    settle_s: float = 0.10


@dataclass(frozen=True)
class ToolState:
    """Commanded tool: pose (5,) is x, y, z in m, yaw of the fingers in rad, opening of one finger in m; velocity (5,) per second."""

    pose: FloatArray
    velocity: FloatArray

    @classmethod
    def rest(cls, position: FloatArray, yaw: float, opening: float) -> ToolState:
        return cls(np.array([*position, yaw, opening]), np.zeros(5))

    @property
    def position(self) -> FloatArray:
        return self.pose[:3]

    @property
    def yaw(self) -> float:
        return float(self.pose[3])

    @property
    def opening(self) -> float:
        return float(self.pose[4])

    def toward(self, other: ToolState, share: float) -> ToolState:
        """Linear between two states of one path."""
        return ToolState(self.pose + share * (other.pose - self.pose), self.velocity + share * (other.velocity - self.velocity))


@dataclass(frozen=True)
class Task:
    """What to do from here. grasp: the parcel to take (or being held); goal (3,): where to let go; goal_velocity: of that place.

    held: it is in the fingers; may_close: they are not shut beside it. grasp None: wait at `wait`.
    """

    wait: FloatArray
    grasp: Grasp | None = None
    held: bool = False
    may_close: bool = True
    goal: FloatArray | None = None
    goal_velocity: float = 0.0


class Rollout:
    """One forward simulation from `after_s` seconds past the scene; `step` moves it on by h seconds."""

    def __init__(self, start: ToolState, task: Task, motion: Motion, space: Workspace, lag_s: float, after_s: float) -> None:
        self.position, self.velocity = start.position.copy(), start.velocity[:3].copy()
        self.yaw, self.opening = start.yaw, start.opening
        self._yaw_rate, self._opening_rate = float(start.velocity[3]), float(start.velocity[4])
        self._task, self._motion, self._space, self._lag_s = task, motion, space, lag_s
        self._t = after_s
        self._held = task.held
        self._closing = self._closes_already()
        self._released = self._lets_go_already()
        self._closed_for = 0.0

    def _closes_already(self) -> bool:
        """Whether the fingers are told to close on the parcel at the start of this roll-out."""
        grasp = self._task.grasp
        if grasp is None or self._held or not self._task.may_close:
            return False
        offset = self.position - grasp.at(self._t + self._lag_s)
        there = np.hypot(offset[0], offset[1]) < 0.014 and abs(offset[2]) < 0.012
        return bool(there and self.opening < self._motion.open - 0.003)

    def _lets_go_already(self) -> bool:
        """Whether the fingers are told to open over the goal at the start of this roll-out."""
        goal, grasp = self._task.goal, self._task.grasp
        if goal is None or grasp is None or not self._held:
            return False
        away = np.hypot(self.position[0] - goal[0], self.position[1] - goal[1] - self._task.goal_velocity * (self._t + self._lag_s))
        return bool(away < 0.03 and self.position[2] < goal[2] + 0.03 and self.opening > grasp.width / 2 - self._motion.squeeze + 0.003)

    def state(self) -> ToolState:
        pose = np.array([*self.position, self.yaw, self.opening])
        return ToolState(pose, np.array([*self.velocity, self._yaw_rate, self._opening_rate]))

    def step(self, h: float) -> None:
        """Advance by h seconds."""
        self._t += h
        if self._task.grasp is None or self._released:
            self._retreat(h)
        elif self._held:
            self._carry(h, self._task.grasp)
        else:
            self._catch(h, self._task.grasp)

    def _catch(self, h: float, grasp: Grasp) -> None:
        """Track the parcel from above, come down through a funnel, close, wait for the grip."""
        m, space = self._motion, self._space
        there = grasp.at(self._t + self._lag_s)  # the arm follows its command by lag_s
        velocity = grasp.velocity
        early = there[1] < space.catch_from
        if early:
            there = np.array([there[0], space.catch_from, there[2]])
            velocity = np.zeros(3)
        error = float(np.hypot(*(self.position - there)[:2]))
        turn = abs(self.yaw - grasp.yaw)
        narrow = 0.0 if self._closing else max(0.0, grasp.width / 2 + 0.007 - self.opening) / 0.01
        high = 1.0 if early else float(np.clip(max((error - 0.010) / 0.030, (turn - 0.1) / 0.3, narrow), 0.0, 1.0))
        self._move(h, there + np.array([0.0, 0.0, high * m.funnel]), velocity)
        self._turn(h, grasp.yaw)
        if not early and error < 0.009 and abs(self.position[2] - there[2]) < 0.006:
            self._closing = True
        closed = max(0.0, grasp.width / 2 - m.squeeze)
        self._finger(h, closed if self._closing else m.open)
        if self._closing and self.opening <= grasp.width / 2 - 0.8 * m.squeeze:
            self._closed_for += h
            self._held = self._closed_for >= m.settle_s

    def _carry(self, h: float, grasp: Grasp) -> None:
        """Up, across, down, let go."""
        m, goal = self._motion, self._task.goal
        if goal is None:
            raise ValueError("a held parcel needs a goal")
        self._finger(h, max(0.0, grasp.width / 2 - m.squeeze))
        goal = goal + np.array([0.0, self._task.goal_velocity * (self._t + self._lag_s), 0.0])
        away = float(np.hypot(*(self.position - goal)[:2]))
        flow = np.array([0.0, self._task.goal_velocity, 0.0])
        if away < 0.025:
            self._move(h, goal, flow)
            self._turn(h, 0.0)
            if self.position[2] < goal[2] + 0.010:
                self._released = True
            return
        if away > 0.10 and self.position[2] < m.carry_z - 0.05:
            # straight up first: the bins' walls and the other parcels are in the way below
            share = float(np.clip((self.position[2] - m.carry_z + 0.12) / 0.07, 0.0, 1.0))
            target = self.position + share * (goal - self.position)
            self._move(h, np.array([target[0], target[1], m.carry_z]), flow)
        else:
            self._move(h, np.array([goal[0], goal[1], m.carry_z if away > 0.06 else max(goal[2], m.carry_z - 0.05)]), flow)
            self._turn(h, 0.0)

    def _retreat(self, h: float) -> None:
        """Open, up, back to the waiting place."""
        m, wait = self._motion, self._task.wait
        self._finger(h, m.open)
        target = wait.copy()
        away = float(np.hypot(*(self.position - wait)[:2]))
        if self.position[2] < m.carry_z - 0.06 and away > 0.05:
            still = self.opening < m.open - 0.012
            target = np.array([self.position[0], self.position[1], self.position[2] if still else m.carry_z])
        elif away > 0.10:
            target[2] = max(target[2], m.carry_z - 0.02)
        self._move(h, target, np.zeros(3))
        self._turn(h, 0.0)

    def _move(self, h: float, target: FloatArray, flow: FloatArray) -> None:
        m = self._motion
        error = target - self.position
        flat, distance = error.copy(), float(np.hypot(error[0], error[1]))
        reach = float(np.hypot(self.position[0], self.position[1]))
        speed = min(m.speed, m.swing * reach, m.gain * distance, np.sqrt(1.4 * m.acceleration * distance))
        wanted = flat * (speed / distance if distance > 1e-9 else 0.0)
        rise = abs(float(error[2]))
        wanted[2] = np.sign(error[2]) * min(m.lift_speed, m.gain * rise, np.sqrt(1.4 * m.acceleration * rise))
        change = wanted + flow - self.velocity
        size = float(np.linalg.norm(change))
        self.velocity = self.velocity + change * min(1.0, m.acceleration * h / max(size, 1e-9))
        self.position = self.position + h * self.velocity

    def _turn(self, h: float, yaw: float) -> None:
        m = self._motion
        self._yaw_rate = _rate(self._yaw_rate, yaw - self.yaw, m.turn_speed, m.turn_acceleration, h)
        self.yaw += h * self._yaw_rate

    def _finger(self, h: float, opening: float) -> None:
        m = self._motion
        self._opening_rate = _rate(self._opening_rate, opening - self.opening, m.finger_speed, m.finger_acceleration, h)
        self.opening = min(max(self.opening + h * self._opening_rate, 0.0), m.open)


def _rate(rate: float, error: float, speed: float, acceleration: float, h: float) -> float:
    """The next rate towards an error of zero, within speed and acceleration, without overshoot at step h."""
    size = abs(error)
    wanted = np.copysign(min(speed, size / (2 * h), np.sqrt(1.4 * acceleration * size)), error)
    return rate + float(np.clip(wanted - rate, -acceleration * h, acceleration * h))
