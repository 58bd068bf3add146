import numpy as np
import pytest

from internvla_a1.core.resources import share_dir
from internvla_a1.core.robot import load_robot
from internvla_a1.core.types import ActionChunk
from internvla_a1.foresight.path import GripperEvent, gripper_events, time_colors, tool_paths


@pytest.fixture(scope="module")
def robot():
    return load_robot(share_dir() / "config/robots/demo_arm.yaml")


def chunk(robot, positions):
    return ActionChunk(1_000_000_000, 1, robot.joint_names, 0.1, np.asarray(positions, dtype=float))


def test_the_path_has_one_point_per_step_at_the_time_of_the_step(robot):
    rows = np.tile(robot.array("home"), (5, 1))
    rows[:, 0] = np.arange(5)
    (path,) = tool_paths(chunk(robot, rows), robot, lambda frame, q: np.array([q[0], 0.0, 1.0]))
    assert path.group == "arm"
    np.testing.assert_allclose(path.points[:, 0], np.arange(5))
    np.testing.assert_allclose(path.times_s, [0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_path_marks_where_the_gripper_closes_and_opens(robot):
    rows = np.tile(robot.array("home"), (9, 1))
    rows[:, -1] = [0.04, 0.04, 0.04, 0.02, 0.0, 0.0, 0.0, 0.02, 0.04]
    (path,) = tool_paths(chunk(robot, rows), robot, lambda frame, q: np.zeros(3))
    assert path.gripper == (GripperEvent(2, opens=False), GripperEvent(6, opens=True))


def test_a_trembling_gripper_is_not_an_event():
    assert gripper_events(0.9 + 0.05 * np.sin(np.arange(50))) == []


def test_closing_on_a_wide_parcel_is_an_event_although_the_gripper_stays_half_open():
    assert gripper_events(np.array([0.95, 0.95, 0.8, 0.6, 0.55, 0.55])) == [GripperEvent(1, opens=False)]


def test_one_long_closing_is_one_event():
    assert gripper_events(np.linspace(1.0, 0.0, 30)) == [GripperEvent(0, opens=False)]


def test_colours_run_from_the_first_to_the_last_instant():
    colors = time_colors(np.array([0.1, 0.2, 0.3]), (0, 1, 0), (1, 0, 1))
    np.testing.assert_allclose(colors, [[0, 1, 0], [0.5, 0.5, 0.5], [1, 0, 1]])
    assert time_colors(np.array([0.1])).shape == (1, 3)
