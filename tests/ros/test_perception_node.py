"""The perception node as a process, fed by synthetic cameras and joint states."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import Observation
from lifecycle_msgs.msg import Transition
from processes import Graph
from samples import CAMERAS, ROBOT
from sensor_msgs.msg import CompressedImage, Image, JointState

from internvla_a1.core.resources import share_dir
from internvla_a1.ros import qos
from internvla_a1.ros.image_bridge import image_msg
from internvla_a1.ros.time import stamp_msg, stamp_ns

pytestmark = pytest.mark.ros
RATE_HZ = 15.0


class Bench:
    """Three cameras at 15 Hz (the wrist's compressed) and joints at 100 Hz, each of which can be silenced."""

    def __init__(self, folder: Path) -> None:
        robot = folder / "robot.yaml"
        text = (share_dir() / "config/robots/demo_arm.yaml").read_text()
        robot.write_text(text.replace("topic: wrist/image_raw", "topic: wrist/image_raw, compressed: true"))
        self.graph = graph = Graph(folder)
        graph.start("perception", robot=str(robot), optional_cameras='["wrist"]')
        self.observations = graph.collect(Observation, "perception/observation", qos.NEWEST)
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self.cameras = {c: graph.publisher(Image, f"{c}/image_raw", qos.SENSOR) for c in ("overhead", "side")}
        self.wrist = graph.publisher(CompressedImage, "wrist/image_raw/compressed", qos.SENSOR)
        self.joints = graph.publisher(JointState, "joint_states", qos.SENSOR)
        self.silent: set[str] = set()
        self.sent = 0
        graph.node.create_timer(1.0 / RATE_HZ, self._see)
        graph.node.create_timer(0.01, self._feel)
        graph.up("perception")

    def now(self) -> int:
        return self.graph.node.get_clock().now().nanoseconds

    def _see(self) -> None:
        stamp = self.now()
        image = np.random.default_rng(stamp).integers(0, 255, (240, 320, 3)).astype(np.uint8)
        image[:, :, 0] = 200
        for camera, publisher in self.cameras.items():
            if camera not in self.silent:
                publisher.publish(image_msg(image, stamp))
        if "wrist" not in self.silent:
            message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
            message.header.stamp = stamp_msg(stamp)
            self.wrist.publish(message)
        self.sent += 1

    def _feel(self) -> None:
        if "joints" not in self.silent:
            names = [*reversed(ROBOT.joint_names), "some_other_joint"]
            message = JointState(name=names, position=[float(len(n)) / 10 if n != "gripper_joint" else 0.02 for n in names])
            message.header.stamp = stamp_msg(self.now())
            self.joints.publish(message)

    def fresh(self, count: int = 5, timeout_s: float = 8.0) -> list[Observation]:
        self.observations.clear()
        assert self.graph.until(lambda: len(self.observations) >= count, timeout_s), self.graph.log("perception")
        return self.observations[:count]

    def status(self) -> tuple[str, dict[str, str]]:
        found = [s for a in self.diagnostics for s in a.status if s.hardware_id == "perception"]
        return (found[-1].message, {v.key: v.value for v in found[-1].values}) if found else ("", {})


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("perception"))
    yield bench
    bench.graph.close()


def test_an_observation_holds_every_view_at_the_models_resolution_in_the_robots_order(bench):
    seen = bench.fresh()[-1]
    assert tuple(seen.cameras) == CAMERAS
    assert all((i.height, i.width, i.encoding) == (224, 224, "rgb8") for i in seen.images)
    assert list(seen.image_valid) == [True] * 3
    assert all(abs(age) < 0.02 for age in seen.image_age)


def test_raw_and_compressed_pictures_arrive_as_rgb(bench):
    assert bench.graph.until(lambda: bool(bench.observations) and all(bench.observations[-1].image_valid))
    for image in bench.observations[-1].images:
        pixels = np.frombuffer(image.data, np.uint8).reshape(224, 224, 3)
        assert abs(pixels[100:124, 100:124, 0].mean() - 200) < 12, "red is the first channel"
        assert pixels[4, 112].max() == 0, "the padding above a wide picture"


def test_joints_are_matched_by_name_and_are_fresh(bench):
    seen = bench.fresh(3)[-1]
    assert tuple(seen.joint_names) == ROBOT.joint_names
    np.testing.assert_allclose(seen.joint_positions, [0.7] * 6 + [0.02])
    assert abs(seen.state_age) < 0.1


def test_the_rate_is_that_of_the_cameras_and_stamps_rise(bench):
    bench.observations.clear()
    sent = bench.sent
    assert bench.graph.until(lambda: bench.sent >= sent + 30)
    bench.graph.until(lambda: False, 0.2)
    stamps = [stamp_ns(m.header.stamp) for m in bench.observations]
    assert len(stamps) >= 24, "a loaded machine may lose some"
    assert all(b > a for a, b in pairwise(stamps))


def test_the_work_of_an_observation_and_its_age_are_reported(bench):
    assert bench.graph.until(lambda: all(0.0 < float(bench.status()[1].get(key, "0")) < 1000.0 for key in ("work_ms", "age_ms")))


def test_an_optional_view_may_be_missing_and_is_marked_invalid(bench):
    bench.silent = {"wrist"}
    bench.graph.until(lambda: False, 0.4)
    seen = bench.fresh()[-1]
    assert list(seen.image_valid) == [True, True, False]
    bench.silent = set()
    assert bench.graph.until(lambda: all(bench.observations[-1].image_valid))


def test_without_a_required_view_there_is_no_observation_and_the_camera_is_named(bench):
    bench.silent = {"side"}
    bench.graph.until(lambda: False, 0.4)
    bench.observations.clear()
    assert bench.graph.until(lambda: "side" in bench.status()[0] and "stale" in bench.status()[0])
    assert not bench.observations
    bench.silent = set()
    bench.fresh()


def test_without_joint_states_there_is_no_observation(bench):
    bench.silent = {"joints"}
    bench.graph.until(lambda: False, 0.4)
    bench.observations.clear()
    assert bench.graph.until(lambda: "joint_state_lost" in bench.status()[0])
    assert not bench.observations
    bench.silent = set()
    bench.fresh()


def test_broken_pictures_and_joint_states_are_counted_and_the_node_lives(bench):
    rng = random.Random(0)
    for _ in range(60):
        image = Image(
            height=rng.choice([0, 1, 240, 2**31]), width=rng.choice([0, 7, 320, 2**31]), step=rng.choice([0, 960, 2**31]),
            encoding=rng.choice(["rgb8", "bgr8", "", "\u2603", "16UC1"]), data=bytes(rng.randrange(2000)),
        )
        image.header.stamp = stamp_msg(bench.now())
        bench.cameras["side"].publish(image)
        bench.wrist.publish(CompressedImage(format="jpeg", data=rng.randbytes(50)))
        bench.joints.publish(JointState(name=["joint_1"], position=[float("nan")]))
        bench.graph.until(lambda: False, 0.005)
    assert bench.graph.until(lambda: "refused/bad_encoding" in bench.status()[1] and "refused/wrong_joints" in bench.status()[1])
    bench.fresh()


def test_an_unknown_optional_camera_is_refused_at_configure(bench, tmp_path):
    graph = Graph(tmp_path)
    try:
        graph.start("perception", optional_cameras='["rear"]')
        assert not graph.change("perception", Transition.TRANSITION_CONFIGURE)
        assert "'rear', available: overhead, side, wrist" in graph.log("perception")
    finally:
        graph.close()


def test_deactivated_it_publishes_nothing_and_ctrl_c_ends_it_with_zero(bench):
    assert bench.graph.change("perception", Transition.TRANSITION_DEACTIVATE)
    bench.graph.until(lambda: False, 0.2)
    bench.observations.clear()
    bench.graph.until(lambda: False, 0.4)
    assert not bench.observations
    assert bench.graph.end("perception") == 0, bench.graph.log("perception")
