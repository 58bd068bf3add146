"""Messages survive the way to the wire and back, and nonsense is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg

from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.scene import Scene, SceneObject
from internvla_a1.core.types import ActionChunk, Foresight, JointState, Observation
from internvla_a1.ros import convert, image_bridge, joints, scene_markers

JOINTS = ("a", "b", "c")
rng = np.random.default_rng(0)


def wire(message):
    return deserialize_message(serialize_message(message), type(message))


def picture(height=6, width=5):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def sample_observation():
    ages = {"top": 0.25, "side": 0.0}
    return Observation(5_000_000_123, {"top": picture(), "side": None}, ages, JOINTS, np.array([1.0, -2.0, 3.0]), 0.125)


def sample_chunk():
    return ActionChunk(7_000_000_001, 42, JOINTS, 0.05, rng.normal(size=(4, 3)), "policy", 2, 0.5, "put it there")


def test_an_observation_survives_the_wire():
    sent = sample_observation()
    got = convert.observation(wire(convert.observation_msg(sent, ("top", "side"))), JOINTS)
    assert isinstance(got, Observation)
    assert got.stamp_ns == sent.stamp_ns and got.image_age_s == sent.image_age_s and got.state_age_s == sent.state_age_s
    assert np.array_equal(got.images["top"], sent.images["top"]) and got.images["side"] is None
    assert np.array_equal(got.positions, sent.positions)


def test_a_chunk_survives_the_wire_and_is_put_in_the_robots_order():
    sent = sample_chunk()
    got = convert.chunk(wire(convert.chunk_msg(sent)), ("c", "a", "b"))
    assert isinstance(got, ActionChunk)
    assert np.array_equal(got.positions, sent.positions[:, [2, 0, 1]])
    assert (got.stamp_ns, got.chunk_id, got.dt_s, got.frozen_steps, got.instruction) == (7_000_000_001, 42, 0.05, 2, "put it there")


def test_a_foresight_survives_the_wire():
    latents = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    sent = Foresight(9, 3, 1.5, ("top", "side"), latents, {"top": picture(), "side": picture()})
    got = convert.foresight(wire(convert.foresight_msg(sent)))
    assert isinstance(got, Foresight)
    assert np.array_equal(got.latents, latents) and np.array_equal(got.images["side"], sent.images["side"])


def broken_chunk(**changes):
    message = convert.chunk_msg(sample_chunk())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"joint_names": ["a", "b", "d"]}, Reason.WRONG_JOINTS),
        ({"joint_names": ["a", "b", "b"]}, Reason.WRONG_JOINTS),
        ({"joint_names": ["a", "b", "c", "d"]}, Reason.WRONG_JOINTS),
        ({"steps": 5}, Reason.WRONG_SHAPE),
        ({"steps": 0}, Reason.WRONG_HORIZON),
        ({"steps": 4_000_000}, Reason.WRONG_HORIZON),
        ({"dt": float("nan")}, Reason.WRONG_SHAPE),
        ({"dt": 0.0}, Reason.WRONG_SHAPE),
        ({"positions": [float("nan")] * 12}, Reason.NON_FINITE),
        ({"positions": [float("inf")] * 12}, Reason.NON_FINITE),
        ({"frozen_steps": 9}, Reason.WRONG_HORIZON),
    ],
)
def test_a_nonsense_chunk_is_refused_with_its_reason(changes, reason):
    got = convert.chunk(broken_chunk(**changes), JOINTS)
    assert isinstance(got, Refusal) and got.reason is reason


def test_joints_are_matched_by_name_and_extra_ones_are_fine():
    message = JointStateMsg(name=["x", "c", "a", "b"], position=[9.0, 3.0, 1.0, 2.0], velocity=[0.0, 0.3, 0.1, 0.2])
    got = joints.joint_state(message, JOINTS)
    assert isinstance(got, JointState)
    assert got.positions.tolist() == [1.0, 2.0, 3.0] and got.velocities.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("name", "position", "velocity", "reason"),
    [
        (["a", "b"], [1.0, 2.0], [], Reason.WRONG_JOINTS),
        (["a", "b", "c", "c"], [1.0, 2.0, 3.0, 3.0], [], Reason.WRONG_JOINTS),
        (["a", "b", "c"], [1.0, 2.0], [], Reason.WRONG_SHAPE),
        (["a", "b", "c"], [1.0, float("nan"), 3.0], [], Reason.NON_FINITE),
        (["a", "b", "c"], [1.0, 2.0, 3.0], [0.0], Reason.WRONG_SHAPE),
        (["a", "b", "c"], [1.0, 2.0, 3.0], [0.0, float("inf"), 0.0], Reason.NON_FINITE),
        ([], [], [], Reason.WRONG_JOINTS),
    ],
)
def test_a_nonsense_joint_state_is_refused_with_its_reason(name, position, velocity, reason):
    got = joints.joint_state(JointStateMsg(name=name, position=position, velocity=velocity), JOINTS)
    assert isinstance(got, Refusal) and got.reason is reason


def test_a_trajectory_survives_the_wire():
    sent = joints.Segment(3_000_000_000, JOINTS, np.array([0.0, 0.01, 0.3]), rng.normal(size=(3, 3)), rng.normal(size=(3, 3)))
    got = joints.segment(wire(joints.trajectory_msg(sent)), JOINTS)
    assert isinstance(got, joints.Segment)
    assert got.stamp_ns == sent.stamp_ns and np.allclose(got.times_s, sent.times_s, atol=1e-9)
    assert np.array_equal(got.positions, sent.positions) and np.array_equal(got.velocities, sent.velocities)


def test_a_trajectory_whose_time_stands_still_is_refused():
    sent = joints.Segment(0, JOINTS, np.array([0.1, 0.1]), np.zeros((2, 3)))
    assert isinstance(joints.segment(joints.trajectory_msg(sent), JOINTS), Refusal)


def test_pixels_honour_row_padding_and_refuse_wrong_lengths():
    image = picture(4, 3)
    padded = np.zeros((4, 16), np.uint8)
    padded[:, :9] = image.reshape(4, 9)
    message = Image(height=4, width=3, encoding="rgb8", step=16, data=padded.tobytes())
    assert np.array_equal(image_bridge.rgb(message), image)
    message.data = message.data[:-1]
    assert isinstance(image_bridge.rgb(message), Refusal)


def test_ten_thousand_mutated_images_raise_nothing():
    encodings = [*image_bridge.LAYOUTS, "", "rgb16", "x" * 300]
    for _ in range(10_000):
        message = Image(
            height=int(rng.integers(0, 9)),
            width=int(rng.integers(0, 9)),
            step=int(rng.integers(0, 60)),
            encoding=encodings[rng.integers(len(encodings))],
            is_bigendian=int(rng.integers(0, 2)),
            data=bytes(int(rng.integers(0, 80))),
        )
        got = image_bridge.pixels(message)
        assert isinstance(got, (np.ndarray, Refusal))


def scene_at(t):
    parcel = SceneObject("parcel_3", "red", "box", np.array([0.04, 0.05, 0.06]), np.array([0.1 * t, 0.5, 0.2]), np.zeros(3), 0.7)
    return Scene(round(1e9 * (1 + t)), (parcel,), {"left": np.array([0.1, 0.2, 0.3])}, 0.08)


def test_a_scene_is_recovered_from_its_markers_with_velocities():
    reader = scene_markers.SceneReader()
    for k in range(4):
        got = reader.read(wire(scene_markers.scene_markers(scene_at(k / 15))))
    assert isinstance(got, Scene)
    parcel = got.objects[0]
    assert (parcel.name, parcel.color, parcel.shape, got.belt_speed) == ("parcel_3", "red", "box", 0.08)
    assert np.allclose(parcel.velocity, [0.1, 0, 0], atol=1e-6) and parcel.yaw == pytest.approx(0.7)
    assert np.allclose(got.bins["left"], [0.1, 0.2, 0.3]) and np.allclose(parcel.size, [0.04, 0.05, 0.06])


def test_a_parcel_that_was_put_elsewhere_has_no_velocity():
    reader = scene_markers.SceneReader()
    reader.read(scene_markers.scene_markers(scene_at(0.0)))
    got = reader.read(scene_markers.scene_markers(scene_at(5.0)))
    assert got.objects[0].velocity.tolist() == [0.0, 0.0, 0.0]


def test_where_the_arm_is_told_to_be_comes_in_the_robots_order_or_is_refused():
    def status(names, commanded):
        return wire(convert.status_msg(1, names, np.array(commanded), np.zeros(len(commanded))))

    np.testing.assert_array_equal(convert.told(status(("c", "x", "a", "b"), [3.0, 9.0, 1.0, 2.0]), JOINTS), [1.0, 2.0, 3.0])
    for names, commanded, reason in (
        (("a", "b"), [1.0, 2.0], Reason.WRONG_JOINTS),
        (JOINTS, [], Reason.WRONG_SHAPE),
        (JOINTS, [1.0, np.nan, 2.0], Reason.NON_FINITE),
    ):
        assert convert.told(status(names, commanded), JOINTS).reason is reason
