"""cell_node: the simulated conveyor cell as a robot on ROS: cameras, joint states, arm controller, belt, orders, score, truth."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from internvla_a1_msgs.msg import SortingScore
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from internvla_a1.core import types
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.priority import REALTIME, come_first
from internvla_a1.core.scene import Scene
from internvla_a1.nodes.cell_arm import ArmPort
from internvla_a1.nodes.cell_loop import OVERVIEW, CellLoop, Darkroom, Schedule, scene_of
from internvla_a1.ros import diagnostics, qos
from internvla_a1.ros.image_bridge import image_msg
from internvla_a1.ros.joints import joint_state_msg
from internvla_a1.ros.lifecycle import PlainNode
from internvla_a1.ros.params import flag, integer, number, text
from internvla_a1.ros.run import run_node
from internvla_a1.ros.scene_markers import scene_markers
from internvla_a1.ros.tf import TransformPublisher, robot_state_publisher_installed
from internvla_a1.ros.time import stamp_msg
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.config import load_cell_config
from internvla_a1.sim.viewer import Viewer

_PACE = "real_time_factor"
_WALL_PACE = "stamps: wall needs real_time_factor 1.0; use simulated stamps with use_sim_time for another"
_EVENTS_KEPT = 100  # a cell that runs for days must not remember them all; nobody reads them here


@dataclass(frozen=True)
class CellParams:
    cell: str = text("config/cell.yaml", "Cell file: physics, parcels, orders, look", required=True)
    seed: int = integer(0, "", 0, 2**31 - 1, "Seed of parcels, orders and looks")
    real_time_factor: float = number(1.0, "", 0.05, 20.0, "Simulated seconds per second of wall time", live=True)
    stamps: str = text("simulated", "Time of stamps: simulated (with /clock, for use_sim_time) or wall", choices=("simulated", "wall"))
    orders: str = text("auto", "auto: the cell's desk publishes instruction; external: the cell obeys it", choices=("auto", "external"))
    belt_speed: float = number(0.08, "m/s", 0.0, 0.25, "Belt speed at the start")
    randomise: float = number(0.0, "", 0.0, 1.0, "Strength of light, colour and camera variation")
    camera_rate: float = number(15.0, "Hz", 1.0, 60.0, "Pictures per second of each camera")
    joint_rate: float = number(100.0, "Hz", 10.0, 250.0, "Joint states and /clock per second")
    tf_rate: float = number(20.0, "Hz", 0.0, 100.0, "Transforms per second where the cell publishes /tf; 0 publishes none")
    publish_tf: str = text("auto", "robot_description and /tf; auto: if no robot_state_publisher", choices=("auto", "always", "never"))
    overview_rate: float = number(0.0, "Hz", 0.0, 30.0, "Pictures per second on overview/image_raw, for films; 0 makes none")
    overview_width: int = integer(480, "px", 64, 1920, "Width of the overview; its height is 9/16 of it")
    controller: str = text("arm_controller", "Relative name of the arm controller", required=True)
    latest_trajectory_s: float = number(
        0.08, "s", 0.0, 1.0, "The arm controller drops messages whose trajectory began longer ago; 0: none, as joint_trajectory_controller"
    )
    realtime_priority: int = integer(REALTIME, "", 0, 99, "SCHED_FIFO priority of arm and physics where the system allows it; 0: ordinary")
    viewer: bool = flag(False, "Open MuJoCo's window where there is a display")


class CellNode(PlainNode):
    """Wires of the cell. The physics thread publishes joints and clock, the darkroom pictures and truth, this node the rest."""

    def __init__(self) -> None:
        super().__init__("cell", CellParams)
        self.params: CellParams = self.parameters.load()
        p = self.params
        if p.stamps == "wall" and p.real_time_factor != 1.0:
            raise ConfigError(f"{_WALL_PACE}, not {p.real_time_factor}")
        config = replace(load_cell_config(p.cell).with_speed(p.belt_speed), randomise=p.randomise)
        self.cell = Cell(config, p.seed)
        self.loop = CellLoop(self.cell, p.real_time_factor, p.stamps == "wall", self.diagnostics.counters)
        self._resets = 0
        self._asked: str | None = None
        self._score: tuple[Any, ...] = ()
        self._meter = (time.monotonic(), 0)
        self._wire_arm()
        self._wire_cameras()
        self._wire_desk()
        self.viewer = self._window() if p.viewer else None
        self.add_on_set_parameters_callback(self._judge_pace)
        self.add_post_set_parameters_callback(self._take_pace)
        self.loop.start()
        scheduling = come_first(p.realtime_priority, (self.loop.thread_id,))  # a real arm's controller does not wait for pictures either
        self.diagnostics.set("scheduling", scheduling)
        self.get_logger().info(
            f"cell running: belt {p.belt_speed} m/s, seed {p.seed}, {p.real_time_factor} x real time, {p.stamps} stamps; "
            f"scheduling {scheduling}"
        )

    def _judge_pace(self, parameters: list[Parameter]) -> SetParametersResult:
        wall = self.params.stamps == "wall" and any(p.name == _PACE and p.value != 1.0 for p in parameters)
        return SetParametersResult(successful=not wall, reason=_WALL_PACE if wall else "")

    def _take_pace(self, parameters: list[Parameter]) -> None:
        for p in parameters:
            if p.name == _PACE:
                self.loop.set_pace(p.value)
                self.get_logger().info(f"{p.value:g} x real time")

    def _window(self) -> Viewer | None:
        try:
            return Viewer(self.cell)
        except ConfigError as error:  # the cell works as well unseen
            self.get_logger().warning(f"no viewer: {error}")
            return None

    def _wire_arm(self) -> None:
        p = self.params
        self._joints_out = self.publisher(JointState, "joint_states", qos.SENSOR)
        self._clock_out = self.publisher(Clock, "/clock", qos.CLOCK) if p.stamps == "simulated" else None
        self._joint_schedule, self._tf_schedule = Schedule(p.joint_rate), Schedule(p.tf_rate)
        self.port = ArmPort(self, self.loop, p.controller, p.latest_trajectory_s)
        own = p.publish_tf == "always" or (p.publish_tf == "auto" and not robot_state_publisher_installed())
        self._tf = TransformPublisher(self, self.cell.urdf_text) if own else None
        if self._tf is not None:
            self._description = self.publisher(String, "robot_description", qos.LATCHED)
            self._description.publish(String(data=self.cell.urdf_text))
            self._tf.publish_static(self.loop.stamp_ns)
        self.loop.locked_step.append(self._look)
        self.loop.each_step.append(self._publish_joints)

    def _wire_cameras(self) -> None:
        p = self.params
        topics = {camera.name: camera.topic for camera in self.cell.robot.cameras}
        self._images = {name: self.publisher(Image, topic, qos.SENSOR) for name, topic in topics.items()}
        infos = {name: f"{topic.rpartition('/')[0] or name}/camera_info" for name, topic in topics.items()}
        self._infos = {name: self.publisher(CameraInfo, topic, qos.SENSOR) for name, topic in infos.items()}
        self._info_msgs = {name: _info_msg(self.cell, name) for name in topics}
        self._objects = self.publisher(MarkerArray, "cell/objects", qos.RELIABLE)
        self._scene: Scene | None = None
        self._camera_schedule, self._overview_schedule = Schedule(p.camera_rate), Schedule(p.overview_rate)
        size = (p.overview_width, p.overview_width * 9 // 16)
        self.darkroom = Darkroom(self.cell, tuple(topics), size, self._publish_image, self.diagnostics.counters)
        self._overview = None
        if p.overview_rate > 0:
            self._images[OVERVIEW] = self.publisher(Image, "overview/image_raw", qos.SENSOR)
            self._overview = Darkroom(self.cell, (OVERVIEW,), size, self._publish_image, self.diagnostics.counters)

    def _wire_desk(self) -> None:
        self._scores = self.publisher(SortingScore, "cell/score", qos.LATCHED)
        self.subscription(Float64, "cell/belt_speed", self._on_belt_speed)
        self.service(Trigger, "cell/reset", self._on_reset)
        if self.params.orders == "external":
            self.subscription(String, "instruction", self._on_instruction, qos.LATCHED)
        else:
            self._instructions = self.publisher(String, "instruction", qos.LATCHED)
        self.timer(0.02, self._desk)
        self.timer(1.0, self._measure)

    def _look(self, stamp: int) -> None:
        """Physics thread, cell locked: what must be of one instant."""
        now = self.cell.stamp_ns
        self._state = self.cell.joint_state() if self._joint_schedule.due(now) else None
        # The truth of a picture goes out with the next step: now the darkroom needs the interpreter to begin.
        self._ready_scene, self._scene = self._scene, None
        if self._camera_schedule.due(now):
            if self.darkroom.take(stamp) or self.darkroom.error:
                self._scene = scene_of(self.cell, stamp)
            else:
                self._camera_schedule.put_off()  # a few ms late: a policy that waits for it would otherwise wait for the one after it
        if self._overview is not None and self._overview_schedule.due(now):
            self._overview.take(stamp)
        if self.viewer is not None:
            self.viewer.sync()

    def _publish_joints(self, stamp: int) -> None:
        if self._ready_scene is not None:
            self._objects.publish(scene_markers(self._ready_scene))
        if self._state is None:
            return
        names, positions, velocities, efforts = self._state
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=stamp_msg(stamp)))
        self._joints_out.publish(joint_state_msg(types.JointState(stamp, positions, velocities), names, efforts))
        if self._tf is not None and self._tf_schedule.due(self.cell.stamp_ns):
            self._tf.publish(stamp, dict(zip(names, positions.tolist(), strict=True)))

    def _publish_image(self, camera: str, stamp: int, image: types.ImageArray) -> None:
        info = self._info_msgs.get(camera)
        frame = info.header.frame_id if info is not None else "world"
        self._images[camera].publish(image_msg(image, stamp, frame))
        if info is not None:
            info.header.stamp = stamp_msg(stamp)
            self._infos[camera].publish(info)

    def _desk(self) -> None:
        with self.loop.lock:
            order, score, speed, stamp = self.cell.order, replace(self.cell.score), round(self.cell.belt.speed, 3), self.loop.stamp_ns
        asked = order.text if order is not None else ""
        if self.params.orders == "auto" and asked != self._asked:
            self._asked = asked
            self._instructions.publish(String(data=asked))
        values = (score.spawned, score.sorted_correct, score.sorted_wrong, score.missed)
        if (*values, speed) != self._score:
            self._score = (*values, speed)
            message = SortingScore(spawned=values[0], sorted_correct=values[1], sorted_wrong=values[2], missed=values[3], belt_speed=speed)
            message.header.stamp = stamp_msg(stamp)
            self._scores.publish(message)

    def _on_belt_speed(self, message: Float64) -> None:
        with self.loop.lock:
            self.cell.set_belt_speed(message.data)  # a ConfigError is logged and counted by the guard

    def _on_instruction(self, message: String) -> None:
        with self.loop.lock:
            self.cell.set_instruction(message.data)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._resets += 1
        seed = self.params.seed + self._resets
        self.loop.reset(seed)
        for schedule in (self._joint_schedule, self._tf_schedule, self._camera_schedule, self._overview_schedule):
            schedule.restart()
        self.port.abandon("the cell was reset")
        self._asked = None
        response.success, response.message = True, f"seed {seed}"
        return response

    def _measure(self) -> None:
        wall, stamp = time.monotonic(), self.loop.stamp_ns
        before_wall, before_stamp = self._meter
        self._meter = (wall, stamp)
        if before_stamp:
            self.diagnostics.set("real_time_factor", (stamp - before_stamp) / 1e9 / (wall - before_wall))
        self.diagnostics.update({f"limit_violations/{kind}": n for kind, n in self.cell.violations.items()})
        self.diagnostics.set("peak_velocity_share", self.cell.monitor.peak_velocity)
        self.diagnostics.set("peak_acceleration_share", self.cell.monitor.peak_acceleration)
        with self.loop.lock:
            news, self.cell.monitor.news = self.cell.monitor.news, []
            del self.cell.events[:-_EVENTS_KEPT]
        for at, what in news:
            near = ", ".join(f"{t - at:+.3f} ({1000 * late:.0f} ms)" for t, late in list(self.port.taken) if abs(t - at) < 0.15)
            self.get_logger().warning(f"limit violation at {at:.3f} s: {what}; trajectories taken in, s (begun before): {near or 'none'}")
        self.diagnostics.set("latest_trajectory_ms", 1000.0 * self.port.latest_s)
        self.diagnostics.set("refused_trajectories", self.cell.controller.refused)

    def health(self) -> diagnostics.Health:
        darkroom = getattr(self, "darkroom", None)
        if darkroom is not None and darkroom.error:
            return diagnostics.ERROR, f"no pictures: {darkroom.error}"
        return diagnostics.OK, "running"

    def stop(self) -> None:
        self.loop.stop()
        for room in (self.darkroom, self._overview):
            if room is not None:
                room.close()
        if self.viewer is not None:
            self.viewer.close()


def _info_msg(cell: Cell, camera: str) -> CameraInfo:
    """sensor_msgs/CameraInfo of an ideal pinhole."""
    info = cell.camera_info(camera)
    matrix = info.matrix
    message = CameraInfo(width=info.width, height=info.height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = info.frame_id
    message.k = matrix.ravel().tolist()
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*matrix[0].tolist(), 0.0, *matrix[1].tolist(), 0.0, *matrix[2].tolist(), 0.0]
    return message


def main() -> int:
    sys.setswitchinterval(0.0002)  # neither physics nor pictures must wait 5 ms for the interpreter
    return run_node(CellNode)


if __name__ == "__main__":
    sys.exit(main())
