"""The MuJoCo model and the URDF are one description."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.kinematics import tool_down_joints, tool_position, tool_yaw
from internvla_a1.sim.urdf import parse_urdf

FRAMES = ("link_1", "link_2", "link_3", "link_4", "link_5", "link_6", "tool0", "finger_left", "finger_right", "wrist_optical_frame")


def test_forward_kinematics_equal_those_of_the_urdf(cell: Cell) -> None:
    import mujoco

    model = pin.buildModelFromXML(cell.urdf_text)
    data = model.createData()
    rng = np.random.default_rng(0)
    scratch = mujoco.MjData(cell.model)
    for _ in range(50):
        q = rng.uniform(model.lowerPositionLimit, model.upperPositionLimit)
        for i, name in enumerate(list(model.names)[1:]):
            scratch.qpos[cell.model.joint(name).qposadr[0]] = q[i]
        mujoco.mj_kinematics(cell.model, scratch)
        pin.framesForwardKinematics(model, data, q)
        for frame in FRAMES:
            expected = data.oMf[model.getFrameId(frame)]
            np.testing.assert_allclose(scratch.body(frame).xpos, expected.translation, atol=1e-9)
            np.testing.assert_allclose(scratch.body(frame).xmat.reshape(3, 3), expected.rotation, atol=1e-9)


def test_cameras_look_along_their_optical_frames(cell: Cell) -> None:
    for name in cell.cameras.names:
        frame = cell.data.body(f"{name}_optical_frame").xmat.reshape(3, 3)
        camera = cell.data.camera(name).xmat.reshape(3, 3)
        np.testing.assert_allclose(camera[:, 0], frame[:, 0], atol=1e-9)  # x right in both
        np.testing.assert_allclose(camera[:, 2], -frame[:, 2], atol=1e-9)  # MuJoCo looks along -z


def test_masses_and_inertias_equal_those_of_the_urdf(cell: Cell) -> None:
    model = pin.buildModelFromXML(cell.urdf_text)
    # pinocchio lumps fixed links into the moving one before them, so the comparison is of what hangs on joint 2
    expected = sum(i.mass for i in list(model.inertias)[2:])
    links = ("link_2", "link_3", "link_4", "link_5", "link_6", "gripper_base", "finger_left", "finger_right")
    assert sum(float(cell.model.body(n).mass[0]) for n in links) == pytest.approx(expected)


def test_robot_file_and_urdf_give_the_same_limits(cell: Cell) -> None:
    urdf = parse_urdf(cell.urdf_text)
    for joint in cell.robot.joints:
        described = urdf.joint(joint.name)
        assert (joint.lower, joint.upper, joint.max_velocity) == (described.lower, described.upper, described.velocity)


def test_home_of_the_control_tag_is_home_of_the_robot_file(cell: Cell) -> None:
    import xml.etree.ElementTree as ET

    tags = ET.fromstring(cell.urdf_text).findall("ros2_control/joint")
    values = {t.get("name"): float(t.findtext("state_interface/param") or "nan") for t in tags}
    assert values == pytest.approx({j.name: j.home for j in cell.robot.joints}, abs=1e-6)


def test_closed_form_inverse_meets_the_model(cell: Cell) -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        tool = rng.uniform([0.15, -0.40, 0.07], [0.52, 0.40, 0.28])
        yaw = rng.uniform(-0.7, 0.7)
        joints = tool_down_joints(cell.geometry, tool, yaw)
        np.testing.assert_allclose(tool_position(cell.geometry, joints), tool, atol=1e-9)
        assert tool_yaw(joints) == pytest.approx(yaw)
        cell.data.qpos[[cell.model.joint(f"joint_{i}").qposadr[0] for i in range(1, 7)]] = joints
        import mujoco

        mujoco.mj_kinematics(cell.model, cell.data)
        np.testing.assert_allclose(cell.tool_position(), tool, atol=1e-9)
        hand = cell.data.body("tool0").xmat.reshape(3, 3)
        np.testing.assert_allclose(hand[:, 2], [0, 0, -1], atol=1e-9)
        assert abs(hand[0, 0] * np.cos(yaw) + hand[1, 0] * np.sin(yaw)) == pytest.approx(1.0)


def test_an_unknown_shape_is_named() -> None:
    text = '<robot name="r"><link name="a"><visual><geometry><sphere radius="1"/></geometry></visual></link></robot>'
    with pytest.raises(ConfigError, match=r"sphere.*box, cylinder"):
        parse_urdf(text)
