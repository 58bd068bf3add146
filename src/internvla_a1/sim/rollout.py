"""The expert's own model of what its commands do: a tool with bounded speed and acceleration, rolled forward to a path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.types import FloatArray
from internvla_a1.sim.grasp import Grasp, Workspace


@dataclass(frozen=True)
class Motion:
    """Tool limits (m/s, m/s², rad/s) and heights (m). Slower than what the joints could, so that the executor limits nothing."""

    speed: float = 0.55
    lift_speed: float = 0.45
    acceleration: float = 2.2
    turn_speed: float = 1.5
    finger_speed: float = 0.22
    gain: float = 7.0
    open: float = 0.040
    squeeze: float = 0.010  # how far inside the parcel's half width the fingers are sent
    carry_z: float = 0.23
    release_z: float = 0.140
    funnel: float = 0.10  # height of the hand over the grasp while it is not above the parcel
    settle_s: float = 0.10


@dataclass(frozen=True)
class ToolState:
    """Commanded tool: position, velocity (3,), yaw of the fingers, opening of one finger."""

    position: FloatArray
    velocity: FloatArray
    yaw: float
    opening: float


@dataclass(frozen=True)
class Task:
    """What to do from here. grasp: the parcel to take (or being held); goal (3,): where to let go; goal_velocity: of that place.

    held: it is in the fingers; closing: they are closing on it. grasp None: wait at `wait`.
    """

    wait: FloatArray
    grasp: Grasp | None = None
    held: bool = False
    closing: bool = False
    goal: FloatArray | None = None
    goal_velocity: float = 0.0


class Rollout:
    """One forward simulation; `step` moves it on by h seconds."""

    def __init__(self, start: ToolState, task: Task, motion: Motion, space: Workspace, lag_s: float) -> None:
        self.position, self.velocity = start.position.copy(), start.velocity.copy()
        self.yaw, self.opening = start.yaw, start.opening
        self._task, self._motion, self._space, self._lag_s = task, motion, space, lag_s
        self._held, self._closing, self._released = task.held, task.closing, False
        self._closed_for = 0.0
        self._t = 0.0

    def state(self) -> ToolState:
        return ToolState(self.position.copy(), self.velocity.copy(), self.yaw, self.opening)

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
        speed = min(m.speed, m.gain * distance, np.sqrt(1.4 * m.acceleration * distance))
        wanted = flat * (speed / distance if distance > 1e-9 else 0.0)
        rise = abs(float(error[2]))
        wanted[2] = np.sign(error[2]) * min(m.lift_speed, m.gain * rise, np.sqrt(1.4 * m.acceleration * rise))
        change = wanted + flow - self.velocity
        size = float(np.linalg.norm(change))
        self.velocity = self.velocity + change * min(1.0, m.acceleration * h / max(size, 1e-9))
        self.position = self.position + h * self.velocity

    def _turn(self, h: float, yaw: float) -> None:
        step = self._motion.turn_speed * h
        self.yaw += float(np.clip(min(1.0, 8.0 * h) * (yaw - self.yaw), -step, step))

    def _finger(self, h: float, opening: float) -> None:
        step = self._motion.finger_speed * h
        self.opening += float(np.clip(opening - self.opening, -step, step))
