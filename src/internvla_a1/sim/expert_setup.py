"""The expert of a given cell: its fixed knowledge from the URDF and the robot file, and the expert as a source of chunks."""

from __future__ import annotations

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.expert import Expert, ExpertSettings, Memory
from internvla_a1.sim.grasp import Workspace
from internvla_a1.sim.kinematics import ArmGeometry
from internvla_a1.sim.urdf import Urdf, parse_urdf

LIMIT_MARGIN = 0.06  # rad kept from the joint limits: the executor slows down near them


def make_expert(urdf: Urdf, robot: RobotSpec, settings: ExpertSettings | None = None) -> Expert:
    """Raises ConfigError where the robot is not the demo arm of the URDF (six joints and a gripper, in this order)."""
    if len(robot.joints) != 7 or not robot.joints[6].gripper:
        raise ConfigError.asked("arm of the scripted expert", robot.name, ("demo_arm",))
    place = urdf.joint("conveyor_mount").pose.xyz + urdf.joint("belt_mount").pose.xyz
    limits = np.stack([robot.array("lower")[:6] + LIMIT_MARGIN, robot.array("upper")[:6] - LIMIT_MARGIN])
    space = Workspace(float(place[0]), float(place[2]))
    return Expert(ArmGeometry.of(urdf), space, limits, settings or ExpertSettings(dt_s=robot.control_dt_s))


class ExpertSource:
    """The expert as what runner.run_orders asks: for the cell as it is now."""

    def __init__(self, cell: Cell, settings: ExpertSettings | None = None) -> None:
        self._expert = make_expert(parse_urdf(cell.urdf_text), cell.robot, settings)
        self._memory = Memory()
        self._count = 0

    def __call__(self, cell: Cell) -> ActionChunk:
        names, joints, _, _ = cell.joint_state()
        targets, self._memory = self._expert.plan(cell.scene(), joints, cell.order, self._memory, cell.stamp_ns)
        self._count += 1
        return ActionChunk(cell.stamp_ns, self._count, names, self._expert.settings.dt_s, targets, source="expert")

    def reset(self) -> None:
        self._memory = Memory()
