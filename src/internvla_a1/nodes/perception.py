"""The perception node: cameras and joint states in, one synchronised observation out.

The rate is that of the slowest camera: an observation goes out as soon as its last picture has come.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from internvla_a1_msgs.msg import Observation as ObservationMsg
from sensor_msgs.msg import CompressedImage, Image, JointState

from internvla_a1.core.clock import seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import CameraSpec, load_robot
from internvla_a1.perception.camera_buffer import CameraState
from internvla_a1.perception.config import PerceptionConfig
from internvla_a1.perception.decode import content_hash, decode_compressed, decode_image
from internvla_a1.perception.perception import Perception
from internvla_a1.ros import convert, diagnostics, qos
from internvla_a1.ros.lifecycle import ManagedNode
from internvla_a1.ros.params import text, texts
from internvla_a1.ros.run import run_node
from internvla_a1.ros.time import stamp_ns, watch_jumps

LOG_EVERY_S = 5.0  # the same trouble again


@dataclass(frozen=True)
class PerceptionParams(PerceptionConfig):
    robot: str = text("config/robots/demo_arm.yaml", "Robot file", required=True)
    optional_cameras: tuple[str, ...] = texts((), "Cameras that observations may lack while they are silent or frozen")

    def __post_init__(self) -> None:
        """Already checked by Parameters.load()."""


class PerceptionNode(ManagedNode):
    """Thin: decode, hand over, publish what comes back."""

    SPARE_MB = 16

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("perception", PerceptionParams, **kwargs)

    def configure(self, params: PerceptionParams) -> None:
        self._params = params
        self._robot = load_robot(find(params.robot))
        self._reset()
        self._published, self._work_s, self._last_work_s = 0, 0.0, 0.0
        self._observations = self.publisher(ObservationMsg, "perception/observation", qos.NEWEST)
        for camera in self._robot.cameras:
            self._listen(camera)
        self.subscription(JointState, "joint_states", self._on_joint_state, qos.SENSOR)
        self.timer(1.0, self._report_state)
        self._jumps = watch_jumps(self, self._on_jump, forward_s=1.0)

    def _listen(self, camera: CameraSpec) -> None:
        if camera.compressed:
            topic = camera.topic if camera.topic.endswith("compressed") else f"{camera.topic}/compressed"
            self.subscription(CompressedImage, topic, lambda m: self._on_compressed(camera.name, m), qos.SENSOR)
        else:
            self.subscription(Image, camera.topic, lambda m: self._on_image(camera.name, m), qos.SENSOR)

    def _reset(self) -> None:
        optional = tuple(name for name in self._params.optional_cameras if name)
        self._perception = Perception(self._robot, self._params, optional)
        self._trouble: Refusal | None = None
        self._states: dict[str, CameraState] = {}

    def activate(self) -> None:
        self._reset()

    def cleanup(self) -> None:
        self._jumps = None

    def health(self) -> diagnostics.Health:
        if not self.active:
            return super().health()
        if self._trouble is not None:
            return diagnostics.WARN, str(self._trouble)
        missing = [f"{name} {state.value}" for name, state in self._states.items() if state is not CameraState.LIVE]
        return (diagnostics.WARN, ", ".join(missing)) if missing else (diagnostics.OK, "observing")

    def _on_image(self, camera: str, message: Image) -> None:
        began = time.perf_counter()
        image = decode_image(message.encoding, message.height, message.width, message.step, message.data)
        self._take(camera, message, image, began)

    def _on_compressed(self, camera: str, message: CompressedImage) -> None:
        began = time.perf_counter()
        self._take(camera, message, decode_compressed(message.data), began)

    def _take(self, camera: str, message: Any, image: Any, began: float) -> None:
        now = self.now()
        refusal = self._perception.on_image(camera, stamp_ns(message.header.stamp), image, content_hash(message.data), now)
        if refusal is not None:
            self.diagnostics.refuse(camera, refusal)
        built = self._perception.build(now)
        if isinstance(built, Refusal):
            self._note(built)
        elif built is not None:
            self._observations.publish(convert.observation_msg(built, self._robot.camera_names))
            self._trouble = None
            self._published += 1
            self.diagnostics.set("age_ms", 1e3 * seconds(self.now().stamp_ns - built.stamp_ns))
        self._work_s += time.perf_counter() - began
        if built is not None and not isinstance(built, Refusal):
            self._last_work_s, self._work_s = self._work_s, 0.0

    def _on_joint_state(self, message: JointState) -> None:
        refusal = self._perception.on_joint_state(message.name, message.position, stamp_ns(message.header.stamp), self.now())
        if refusal is not None:
            self.diagnostics.refuse("joint_states", refusal)

    def _note(self, trouble: Refusal) -> None:
        """Why there is no observation; while everything starts up that is no news."""
        self._trouble = trouble
        self.diagnostics.count(f"not_built/{trouble.reason.value}")
        if trouble.reason is not Reason.STALE or self._published:
            self.diagnostics.warn_throttled(f"not_built/{trouble.reason.value}", f"no observation: {trouble}", LOG_EVERY_S)

    def _report_state(self) -> None:
        if not self.active:
            return
        states = self._perception.states(self.now())
        for name, state in states.items():
            if self._published and state is not self._states.get(name, CameraState.LIVE):
                self.get_logger().info(f"camera {name} is {state.value}")
        self._states = states
        self.diagnostics.update({f"camera/{name}": state.value for name, state in states.items()})
        self.diagnostics.update({f"dropped/{name}": buffer.dropped for name, buffer in self._perception.cameras.items()})
        self.diagnostics.update({"observations": self._published, "work_ms": 1e3 * self._last_work_s})

    def _on_jump(self, jump_s: float) -> None:
        self.get_logger().info(f"the clock jumped by {jump_s:.3f} s: buffers cleared")
        self.diagnostics.count("clock_jumps")
        self._reset()


def main(args: list[str] | None = None) -> int:
    return run_node(PerceptionNode, args)


if __name__ == "__main__":
    sys.exit(main())
