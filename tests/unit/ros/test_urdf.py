"""Frames from the URDF: the same as the kinematics of control/, fixed joints apart."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.control.kinematics import UrdfChain
from internvla_a1.core.errors import ConfigError
from internvla_a1.ros.urdf import FrameTree, load_urdf


def matrix(t):
    x, y, z, w = t.quat
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.vstack([np.column_stack([turn, t.xyz]), [0, 0, 0, 1]])


def test_the_tool_is_where_forward_kinematics_puts_it():
    text = load_urdf("urdf/demo_cell.urdf.xacro")
    tree, chain = FrameTree(text), UrdfChain(text)
    rng = np.random.default_rng(3)
    for _ in range(20):
        q = {name: float(rng.uniform(-1, 1)) if "gripper" not in name else 0.02 for name in tree.joints}
        edges = {t.child: t for t in [*tree.fixed, *tree.moving(q)]}
        frame, pose = "tool0", np.eye(4)
        while frame in edges:
            pose = matrix(edges[frame]) @ pose
            frame = edges[frame].parent
        assert frame == "world" and np.allclose(pose, chain.fk(q)["tool0"], atol=1e-9)


def test_joints_of_unknown_position_have_no_transform():
    tree = FrameTree(load_urdf("urdf/demo_cell.urdf.xacro"))
    assert tree.moving({}) == [] and len(tree.moving({"joint_1": 0.0})) == 1


@pytest.mark.parametrize("text", ["", "<robot><joint name='j' type='fixed'/></robot>", "no xml"])
def test_what_is_not_a_urdf_is_refused(text):
    with pytest.raises(ConfigError):
        FrameTree(text)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere"):
        load_urdf("nowhere.urdf")
