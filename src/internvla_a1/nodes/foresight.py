"""The foresight node: what the policy expects to see and to do, as pictures, markers and a ghost arm; and how wrong it was.

Only a display and a score: nothing that moves the arm waits for it.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from typing import Any

from internvla_a1_msgs.msg import ActionChunk as ActionChunkMsg
from internvla_a1_msgs.msg import Foresight as ForesightMsg
from internvla_a1_msgs.msg import Observation as ObservationMsg
from sensor_msgs.msg import Image
from std_msgs.msg import Float32
from visualization_msgs.msg import MarkerArray

from internvla_a1.core.clock import seconds
from internvla_a1.core.faults import Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.types import ActionChunk, FloatArray, Foresight, Observation
from internvla_a1.foresight.ghost import GhostPlayer
from internvla_a1.foresight.path import tool_paths
from internvla_a1.foresight.rendering import predicted_view, sheet
from internvla_a1.foresight.surprise import SurpriseMeter
from internvla_a1.nodes.foresight_markers import path_markers
from internvla_a1.ros import convert, diagnostics, qos
from internvla_a1.ros.foresight_frames import ToolFrames
from internvla_a1.ros.foresight_ghost import GhostPublisher
from internvla_a1.ros.image_bridge import image_msg
from internvla_a1.ros.lifecycle import ManagedNode
from internvla_a1.ros.params import integer, number, text
from internvla_a1.ros.run import run_node
from internvla_a1.ros.time import watch_jumps
from internvla_a1.ros.urdf import load_urdf

NO_PREDICTION_S = 2.0  # after this long without a foresight the sheet says so
REMEMBERED = 60  # observations whose joint positions are kept, to start the ghost from


@dataclass(frozen=True)
class ForesightParams:
    robot: str = text("config/robots/demo_arm.yaml", "Robot file", required=True)
    picture_px: int = integer(224, "px", 64, 1024, "Edge of one picture on the sheet")
    ghost_rate_hz: float = number(20.0, "Hz", 1.0, 100.0, "Rate of the ghost arm")
    ghost_speed: float = number(1.0, "s/s", 0.1, 10.0, "Playback speed of the ghost arm")
    ghost_pause_s: float = number(0.4, "s", 0.0, 10.0, "Rest of the ghost at the end of a chunk")
    chunk_lifetime_s: float = number(1.0, "s", 0.1, 60.0, "Path and ghost of a chunk that is not renewed end after this")
    compare_tolerance_s: float = number(0.1, "s", 0.01, 1.0, "Surprise: an observation this close to the predicted instant is compared")
    longest_horizon_s: float = number(6.0, "s", 0.1, 60.0, "Surprise: longest horizon that is waited for")


class ForesightNode(ManagedNode):
    """Thin: newest observation, chunk and foresight in; pictures, markers, ghost and score out."""

    SPARE_MB = 16

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("foresight", ForesightParams, **kwargs)
        self._newest: Observation | None = None
        self._positions: deque[tuple[int, FloatArray]] = deque(maxlen=REMEMBERED)
        self._surprise: float | None = None
        self._predicted_ns: int | None = None
        self._chunk_came_ns: int | None = None

    def configure(self, params: ForesightParams) -> None:
        self._params = params
        self._robot = load_robot(find(params.robot))
        self._meter = SurpriseMeter(params.compare_tolerance_s, keep_s=params.longest_horizon_s + 1.0)
        self._player = GhostPlayer(params.ghost_speed, params.ghost_pause_s)
        self._frames, self._ghost = self._model()
        self._forget()
        self._wire()

    def _model(self) -> tuple[ToolFrames | None, GhostPublisher | None]:
        """Frames and ghost from the URDF. A robot file without one leaves the pictures and the score."""
        if not self._robot.urdf:
            self.get_logger().warning(f"robot {self._robot.name} names no URDF: no tool path, no ghost")
            return None, None
        urdf = load_urdf(self._robot.urdf)
        frames = ToolFrames(urdf, self._robot.base_frame, self._robot.joint_names, self._robot.passive)
        for group in self._robot.groups:
            if group.tool_frame:
                frames.tool_position(group.tool_frame, self._robot.array("home"))  # refuses a frame that is not there
        return frames, GhostPublisher(self, urdf, frames, self._robot.joint_names)

    def _wire(self) -> None:
        self._sheets = self.publisher(Image, "foresight/image", qos.RELIABLE)
        self._views = {c: self.publisher(Image, f"foresight/{c}/image", qos.RELIABLE) for c in self._robot.camera_names}
        self._markers = self.publisher(MarkerArray, "foresight/markers", qos.RELIABLE)
        self._surprises = self.publisher(Float32, "foresight/surprise", qos.RELIABLE)
        self.subscription(ObservationMsg, "perception/observation", self._on_observation, qos.NEWEST)
        self.subscription(ActionChunkMsg, "policy/action_chunk", self._on_chunk)
        self.subscription(ForesightMsg, "policy/foresight", self._on_foresight)
        self.timer(1.0 / self._params.ghost_rate_hz, self._play)
        self.timer(NO_PREDICTION_S / 2, self._say_if_nothing_is_predicted)
        self._jumps = watch_jumps(self, self._on_jump, forward_s=1.0)

    def activate(self) -> None:
        self._forget()
        if self._ghost is not None:
            self._ghost.publish_static(self.now().stamp_ns)

    def cleanup(self) -> None:
        self._jumps = None

    def health(self) -> diagnostics.Health:
        if self.active and self._newest is None:
            return diagnostics.WARN, "waiting for observations"
        return super().health()

    def _on_observation(self, message: ObservationMsg) -> None:
        seen = convert.observation(message, self._robot.joint_names)
        if isinstance(seen, Refusal):
            self.diagnostics.refuse("observation", seen)
            return
        self._newest = seen
        self._positions.append((seen.stamp_ns, seen.positions))
        surprise = self._meter.observe(seen)
        if surprise is not None:
            self._surprise = surprise.score
            self._surprises.publish(Float32(data=surprise.score))
            self.diagnostics.update({f"surprise/{camera}": score for camera, score in surprise.views.items()})

    def _on_chunk(self, message: ActionChunkMsg) -> None:
        chunk = convert.chunk(message, self._robot.joint_names)
        if isinstance(chunk, Refusal):
            self.diagnostics.refuse("chunk", chunk)
            return
        self._chunk_came_ns = self.now().steady_ns
        self._player.show(chunk, self._start_of(chunk))
        if self._frames is not None and self._markers.get_subscription_count() > 0:
            paths = tool_paths(chunk, self._robot, self._frames.tool_position)
            self._markers.publish(path_markers(paths, self._robot.base_frame, self.now().stamp_ns, self._params.chunk_lifetime_s))

    def _start_of(self, chunk: ActionChunk) -> FloatArray | None:
        """Measured positions at the observation of the chunk, if that was seen here."""
        return next((positions for stamp, positions in self._positions if stamp == chunk.stamp_ns), None)

    def _on_foresight(self, message: ForesightMsg) -> None:
        foresight = convert.foresight(message)
        if isinstance(foresight, Refusal):
            self.diagnostics.refuse("foresight", foresight)
            return
        self._predicted_ns = self.now().steady_ns
        if not self._meter.predict(foresight):
            self.diagnostics.count("not_compared")
        self._show(foresight)

    def _show(self, foresight: Foresight) -> None:
        stamp = self.now().stamp_ns
        for camera, image in foresight.images.items():
            publisher = self._views.get(camera)
            if publisher is not None and publisher.get_subscription_count() > 0:
                publisher.publish(image_msg(predicted_view(image, camera, foresight.horizon_s, self._params.picture_px), stamp))
        if self._sheets.get_subscription_count() > 0:
            now = self._newest.images if self._newest is not None else {}
            page = sheet(now, foresight.images, foresight.horizon_s, self._robot.camera_names, surprise=self._surprise,
                         size=self._params.picture_px)
            self._sheets.publish(image_msg(page, stamp))

    def _say_if_nothing_is_predicted(self) -> None:
        now = self.now()
        silent = self._predicted_ns is None or seconds(now.steady_ns - self._predicted_ns) > NO_PREDICTION_S
        if self.active and silent and self._newest is not None and self._sheets.get_subscription_count() > 0:
            page = sheet(self._newest.images, {}, 0.0, self._robot.camera_names, "this policy predicts no images",
                         size=self._params.picture_px)
            self._sheets.publish(image_msg(page, now.stamp_ns))

    def _play(self) -> None:
        now = self.now()
        if self._ghost is None or not self.active or self._chunk_came_ns is None:
            return
        if seconds(now.steady_ns - self._chunk_came_ns) > self._params.chunk_lifetime_s:
            self._player.clear()
            return
        positions = self._player.positions(now.steady_ns)
        if positions is not None:
            self._ghost.publish(now.stamp_ns, positions)

    def _on_jump(self, jump_s: float) -> None:
        self.diagnostics.count("clock_jumps")
        self._forget()

    def _forget(self) -> None:
        self._newest = self._surprise = self._predicted_ns = self._chunk_came_ns = None
        self._positions.clear()
        self._meter.clear()
        self._player.clear()


def main(args: list[str] | None = None) -> int:
    return run_node(ForesightNode, args)


if __name__ == "__main__":
    sys.exit(main())
