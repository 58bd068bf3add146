"""The scripted expert of the demo cell as a policy: it reads the ground truth, so it is a yardstick and a teacher, not a result."""

from __future__ import annotations

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.scene import parse_order
from internvla_a1.core.types import ActionChunk, Foresight
from internvla_a1.policy.protocol import PolicyRequest, PolicyResult
from internvla_a1.sim.expert import ExpertSettings, Memory
from internvla_a1.sim.expert_setup import make_expert
from internvla_a1.sim.urdf import expand_xacro, parse_urdf


class ExpertPolicy:
    """policy.protocol.Policy. lag_s: how far the arm follows the commands behind, s. Raises ConfigError for another arm."""

    history_s = 0.0
    horizon_s = 0.0
    needs_scene = True

    def __init__(self, robot: RobotSpec, lag_s: float = ExpertSettings.lag_s, steps: int = ExpertSettings.steps) -> None:
        self.robot = robot
        urdf = parse_urdf(expand_xacro(find(robot.urdf)))
        self._expert = make_expert(urdf, robot, ExpertSettings(lag_s=lag_s, steps=steps, dt_s=robot.control_dt_s))
        self._memory = Memory()

    def infer(self, request: PolicyRequest) -> PolicyResult:
        """Raises ConfigError without ground truth or with an instruction that is not of the sorting task; an empty one means wait."""
        if request.scene is None:
            raise ConfigError("the expert policy needs the cell's ground truth (cell/objects), and none came with the request")
        seen = request.observation
        order = parse_order(request.instruction) if request.instruction.strip() else None
        positions, self._memory = self._expert.plan(request.scene, seen.positions, order, self._memory, seen.stamp_ns)
        dt_s, text = self.robot.control_dt_s, request.instruction
        return PolicyResult(ActionChunk(seen.stamp_ns, request.chunk_id, seen.joint_names, dt_s, positions, instruction=text))

    def decode(self, foresight: Foresight) -> Foresight:
        """Nothing to decode: the expert foresees nothing."""
        return foresight

    def reset(self) -> None:
        self._memory = Memory()
