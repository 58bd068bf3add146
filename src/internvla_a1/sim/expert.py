"""The scripted expert: ground truth in, a chunk of joint targets out. A pure function that is re-asked several times a second.

It is nearly memoryless: the phase (approach, close, carry, release, wait) follows from where things are. The memory holds only
the last plan, so that the next one starts where the arm was told to be, and which parcel it goes for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from internvla_a1.core.clock import seconds
from internvla_a1.core.scene import Order, Scene, SceneObject
from internvla_a1.core.types import FloatArray
from internvla_a1.sim.grasp import Grasp, Workspace, between_fingers, choose, grasp_of, in_bin
from internvla_a1.sim.kinematics import ArmGeometry, tool_down_joints, tool_position, tool_yaw
from internvla_a1.sim.rollout import Motion, Rollout, Task, ToolState

SUBSTEPS = 3  # of the roll-out, per step of the chunk


@dataclass(frozen=True)
class ExpertSettings:
    """lag_s: how far the arm follows its command behind, servo and executor together.

    committed: leading steps that repeat the last plan, because they run before the new chunk can arrive.
    adrift_m: with the tool further than this from the last plan, the plan is dropped.
    """

    lag_s: float = 0.035
    committed: int = 2
    adrift_m: float = 0.06
    steps: int = 50
    dt_s: float = 1.0 / 15.0
    motion: Motion = field(default_factory=Motion)


@dataclass(frozen=True)
class Memory:
    """The last plan: tool states on the grid stamp_ns + k * dt, k = 0..steps, and the name of the parcel it was for.

    One state alone is how the arm is told to move at stamp_ns; nothing is committed then.
    """

    stamp_ns: int = 0
    path: tuple[ToolState, ...] = ()
    target: str = ""


@dataclass(frozen=True)
class Expert:
    """Fixed knowledge: geometry of the arm, the workspace, limits of the six joints (2, 6) rad."""

    arm: ArmGeometry
    space: Workspace
    limits: FloatArray
    settings: ExpertSettings = field(default_factory=ExpertSettings)

    def plan(self, scene: Scene, joints: FloatArray, order: Order | None, memory: Memory, stamp_ns: int) -> tuple[FloatArray, Memory]:
        """Targets (steps, 7): joints 1 to 6 rad and the finger opening m, row k for stamp_ns + (k + 1) * dt.

        joints (7,) are measured at stamp_ns. The scene may be a little older: it is moved on at constant speed.
        """
        s = self.settings
        scene = scene.advanced(seconds(stamp_ns - scene.stamp_ns))
        tool = tool_position(self.arm, joints[:6])
        path = self._committed(joints, tool, memory, stamp_ns)
        task = self._task(scene, tool, tool_yaw(joints[:6]), float(joints[6]), order, memory)
        rollout = Rollout(path[-1], task, s.motion, self.space, s.lag_s, (len(path) - 1) * s.dt_s)
        while len(path) <= s.steps:
            for _ in range(SUBSTEPS):
                rollout.step(s.dt_s / SUBSTEPS)
            path.append(rollout.state())
        targets = np.array([self._joints(state) for state in path[1:]])
        return targets, Memory(stamp_ns, tuple(path), task.grasp.name if task.grasp else "")

    def told(self, before: FloatArray, after: FloatArray, apart_s: float) -> ToolState:
        """The tool as joints (7,) that it was told to have, and how it moves on to others apart_s later."""
        one, two = (np.array([*tool_position(self.arm, q[:6]), tool_yaw(q[:6]), q[6]]) for q in (before, after))
        return ToolState(one, (two - one) / apart_s)

    def _joints(self, state: ToolState) -> FloatArray:
        six = tool_down_joints(self.arm, state.position, state.yaw)
        return np.append(np.clip(six, self.limits[0], self.limits[1]), state.opening)

    def _committed(self, joints: FloatArray, tool: FloatArray, memory: Memory, stamp_ns: int) -> list[ToolState]:
        """Where the arm is told to be now and in the committed steps: by the last plan while the arm follows it, else where it is."""
        s = self.settings
        age = seconds(stamp_ns - memory.stamp_ns)
        if len(memory.path) == 1 and age == 0:
            return [*memory.path]
        planned = [self._planned(memory, age + k * s.dt_s) for k in range(s.committed + 1)]
        path = [p for p in planned if p is not None]
        if len(path) == len(planned) and np.linalg.norm(path[0].position - path[0].velocity[:3] * s.lag_s - tool) < s.adrift_m:
            return path
        return [ToolState.rest(tool, tool_yaw(joints[:6]), float(joints[6]))] * (s.committed + 1)

    def _planned(self, memory: Memory, age_s: float) -> ToolState | None:
        k = age_s / self.settings.dt_s
        if not memory.path or k < 0 or k > len(memory.path) - 1:
            return None
        i = min(int(k), len(memory.path) - 2)
        return memory.path[i].toward(memory.path[i + 1], k - i)

    def _task(self, scene: Scene, tool: FloatArray, yaw: float, opening: float, order: Order | None, memory: Memory) -> Task:
        wait = np.array([self.space.belt_x, self.space.catch_from + 0.06, self.space.belt_top + 0.14])
        pinched = self._pinched(scene, tool, yaw, opening)
        if pinched is not None:
            grasp = grasp_of(pinched, scene)
            if order is None or not order.matches(pinched):
                goal = self._back_on_belt(scene, pinched, tool, grasp)
                return Task(wait, grasp, held=True, goal=goal, goal_velocity=scene.belt_speed)
            goal = np.array([*scene.bins[order.bin][:2], self.settings.motion.release_z])
            return Task(wait, grasp, held=True, goal=goal)
        if order is None or self._letting_go(scene, tool, opening, order):
            return Task(wait)
        parcel = choose(scene, order, self.space, tool, 0.8 * self.settings.motion.speed, memory.target)
        if parcel is None:
            return Task(wait)
        grasp = grasp_of(parcel, scene)
        goal = np.array([*scene.bins[order.bin][:2], self.settings.motion.release_z])
        return Task(wait, grasp, may_close=opening > grasp.width / 2 - 0.004, goal=goal)

    def _pinched(self, scene: Scene, tool: FloatArray, yaw: float, opening: float) -> SceneObject | None:
        """The parcel that is in the fingers, if one is."""
        for parcel in scene.objects:
            half = min(parcel.size[0], parcel.size[1]) / 2
            widest = max(parcel.size[0], parcel.size[1]) / 2
            if between_fingers(parcel, tool, yaw) and half - 0.004 < opening < widest + 0.0015:
                return parcel
        return None

    def _letting_go(self, scene: Scene, tool: FloatArray, opening: float, order: Order) -> bool:
        """A parcel of the order is falling into its bin or lies under the hand there."""
        floor = scene.bins[order.bin]
        if np.hypot(*(tool - floor)[:2]) > 0.10:
            return False
        return any(order.matches(p) and np.abs(p.position - floor)[:2].max() < 0.11 for p in scene.objects) and tool[2] < 0.20

    def _back_on_belt(self, scene: Scene, held: SceneObject, tool: FloatArray, grasp: Grasp) -> FloatArray:
        """Where to put down a parcel that is not wanted any more: on the belt, away from the others."""
        others = [p.position[1] for p in scene.objects if p.name != held.name and not any(in_bin(p, b) for b in scene.bins.values())]
        places = np.arange(-0.20, 0.25, 0.03)
        clear = [min((abs(y - o) for o in others), default=1.0) for y in places]
        score = [min(c, 0.12) - 0.05 * abs(y - tool[1]) for c, y in zip(clear, places, strict=True)]
        height = self.space.belt_top + held.size[2] / 2 + 0.006
        return np.array([self.space.belt_x, float(places[int(np.argmax(score))]), height])
