"""The foresight node as a process: pictures, path, ghost and score from made-up observations, chunks and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import ActionChunk, Foresight, Observation
from processes import Graph
from rclpy.qos import DurabilityPolicy, QoSProfile
from samples import CAMERAS, ROBOT, chunk, observation, picture
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from internvla_a1.core import types
from internvla_a1.core.clock import nanoseconds
from internvla_a1.foresight.rendering import BAR, GAP, TILE
from internvla_a1.ros import convert, qos

pytestmark = pytest.mark.ros
HORIZON_S = 0.4


class Bench:
    """Observations and predictions at 10 Hz, chunks at 5 Hz."""

    def __init__(self, folder: Path) -> None:
        self.graph = graph = Graph(folder)
        graph.start("foresight", chunk_lifetime_s=0.8)
        self.sheets = graph.collect(Image, "foresight/image", qos.RELIABLE)
        self.views = graph.collect(Image, "foresight/overhead/image", qos.RELIABLE)
        self.markers = graph.collect(MarkerArray, "foresight/markers", qos.RELIABLE)
        self.ghost = graph.collect(JointState, "foresight/ghost/joint_states", qos.DEFAULT)
        self.frames = graph.collect(TFMessage, "/tf", qos.TF)
        listener = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # as tf2_ros listens
        self.fixed = graph.collect(TFMessage, "/tf_static", listener)
        self.surprises = graph.collect(Float32, "foresight/surprise", qos.RELIABLE)
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self._observations = graph.publisher(Observation, "perception/observation", qos.NEWEST)
        self._chunks = graph.publisher(ActionChunk, "policy/action_chunk", qos.RELIABLE)
        self._foresights = graph.publisher(Foresight, "policy/foresight", qos.RELIABLE)
        self.acting, self.predicting, self.wrong, self._ticks = True, True, False, 0
        graph.up("foresight")
        graph.node.create_timer(0.1, self._tick)

    def _tick(self) -> None:
        now = self.graph.node.get_clock().now().nanoseconds
        self._ticks += 1
        self._observations.publish(convert.observation_msg(observation(now), CAMERAS))
        if self.acting and self._ticks % 2 == 0:
            self._chunks.publish(convert.chunk_msg(chunk(now, self._ticks)))
        if self.predicting:
            ahead = picture(now + nanoseconds(HORIZON_S + (3.0 if self.wrong else 0.0)))
            latents = np.zeros((3, 4, 2, 2), np.float32)
            foresight = types.Foresight(now, self._ticks, HORIZON_S, CAMERAS, latents, dict.fromkeys(CAMERAS, ahead))
            self._foresights.publish(convert.foresight_msg(foresight))

    def get(self, received: list, count: int = 1, timeout_s: float = 8.0) -> list:
        received.clear()
        assert self.graph.until(lambda: len(received) >= count, timeout_s), self.graph.log("foresight")
        return received[:count]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("foresight"))
    yield bench
    bench.graph.close()


def pixels(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def test_the_sheet_shows_every_view_now_beside_predicted(bench):
    page = pixels(bench.get(bench.sheets, 3)[-1])
    assert page.shape == (3 * (TILE + BAR + GAP) + GAP, 2 * TILE + 3 * GAP, 3)
    band = page[GAP + BAR + 95 : GAP + BAR + 130].astype(int)
    red = (band[..., 0] > 180) & (band[..., 1] < 80)
    columns = np.flatnonzero(red.any(axis=0))
    now, predicted = columns[columns < GAP + TILE], columns[columns > GAP + TILE] - GAP - TILE
    moved = predicted.mean() - now.mean()
    assert now.size and predicted.size
    assert 5 < moved < 80 or moved < 0, "the predicted parcel is ahead (or has wrapped around)"


def test_each_predicted_view_has_a_topic_of_its_own(bench):
    assert pixels(bench.get(bench.views)[0]).shape == (TILE + BAR, TILE, 3)


def test_the_path_of_the_tool_is_a_line_coloured_by_time_with_the_gripper_marked(bench):
    markers = bench.get(bench.markers)[0].markers
    assert markers[0].action == Marker.DELETEALL
    line = next(m for m in markers if m.type == Marker.LINE_STRIP)
    assert len(line.points) == len(line.colors) == 20
    assert line.header.frame_id == ROBOT.base_frame
    assert line.colors[0].g > line.colors[-1].g and line.colors[-1].b > line.colors[0].b
    assert next(m for m in markers if m.type == Marker.TEXT_VIEW_FACING).text == "close in 0.7 s"
    radii = [np.hypot(p.x, p.y) for p in line.points]
    assert np.ptp(radii) < 1e-6 and radii[0] > 0.1, "turning joint 1 alone, the tool goes round the base"


def test_the_ghost_plays_the_chunk_under_its_own_frames(bench):
    states = bench.get(bench.ghost, 30)
    assert tuple(states[0].name) == ROBOT.joint_names
    turned = [s.position[0] for s in states]
    assert max(turned) - min(turned) > 0.5, "it moves through the chunk although new chunks come all the time"
    moving = {t.child_frame_id: t for m in bench.get(bench.frames) for t in m.transforms}
    assert moving and all(name.startswith("ghost/") and t.header.frame_id.startswith("ghost/") for name, t in moving.items())


def test_every_frame_of_the_ghost_hangs_on_the_root_of_the_robot(bench):
    transforms = [t for m in bench.get(bench.frames) + bench.fixed for t in m.transforms]
    parents = {t.child_frame_id: t.header.frame_id for t in transforms}
    for frame in list(parents):
        while frame in parents:
            frame = parents[frame]
        assert frame == "world"
    assert f"ghost/{ROBOT.tool_frame}" in parents


def test_the_surprise_is_near_zero_while_predictions_come_true_and_rises_when_they_do_not(bench):
    calm = [m.data for m in bench.get(bench.surprises, 15, 12.0)]
    assert np.median(calm) < 0.2, calm
    bench.wrong = True
    bench.graph.until(lambda: False, 2 * HORIZON_S)
    wrong = [m.data for m in bench.get(bench.surprises, 5)]
    bench.wrong = False
    assert np.median(wrong) > 0.5, wrong


def test_a_policy_without_foresight_still_has_path_and_ghost_and_the_sheet_says_so(bench):
    bench.predicting = False
    bench.graph.until(lambda: False, 2.2)
    page = pixels(bench.get(bench.sheets)[0])
    right = page[GAP + BAR : GAP + BAR + TILE, 2 * GAP + TILE : -GAP].astype(int)
    assert ((right[..., 0] > 180) & (right[..., 1] < 80)).sum() == 0, "no old prediction"
    bench.get(bench.ghost)
    bench.get(bench.markers)


def test_the_ghost_ends_with_the_chunks(bench):
    bench.acting = False
    bench.graph.until(lambda: False, 1.2)
    bench.ghost.clear()
    bench.graph.until(lambda: False, 0.5)
    assert not bench.ghost


def test_nonsense_is_refused_and_the_node_lives(bench):
    now = bench.graph.node.get_clock().now().nanoseconds
    broken = convert.chunk_msg(chunk(now))
    broken.positions[3] = float("nan")
    bench._chunks.publish(broken)
    bench._foresights.publish(Foresight(cameras=["overhead"], latents=[1.0], latent_shape=[1, 2, 3]))

    def counted() -> bool:
        keys = {v.key for a in bench.diagnostics for s in a.status if s.hardware_id == "foresight" for v in s.values}
        return {"refused/non_finite", "refused/wrong_shape"} <= keys

    assert bench.graph.until(counted)
    bench.acting = True
    bench.get(bench.markers)


def test_sigterm_ends_it_with_zero(bench):
    assert bench.graph.end("foresight", 15) == 0, bench.graph.log("foresight")
