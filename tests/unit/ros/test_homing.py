"""Homing paths keep the limits, and optional packages that are missing are named."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.core.errors import MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.nodes.homing import StraightPlanner, make_planner

ROBOT = load_robot(find("config/robots/demo_arm.yaml"))


class Wall:
    """A gate that finds a hit after the first waypoints."""

    name = "wall"

    def check(self, start, path):
        return PathCheck(3, "link_4 with the wall")


def test_a_straight_path_starts_and_ends_at_rest_within_the_limits():
    rng = np.random.default_rng(1)
    for _ in range(200):
        start, goal = (rng.uniform(ROBOT.array("lower"), ROBOT.array("upper")) for _ in range(2))
        times, path = StraightPlanner(ROBOT, None).plan(start, goal)
        assert np.array_equal(path[0], start) and np.allclose(path[-1], goal) and (np.diff(times) > 0).all()
        speed = np.diff(path, axis=0) / np.diff(times)[:, None]
        turn = np.diff(speed, axis=0) / np.diff(times)[:-1, None]
        assert (np.abs(speed) <= 0.31 * ROBOT.array("max_velocity")).all()
        assert (np.abs(turn) <= 0.31 * ROBOT.array("max_acceleration")).all()


def test_a_way_through_a_wall_is_refused_with_what_it_hits():
    got = StraightPlanner(ROBOT, Wall()).plan(ROBOT.array("home"), ROBOT.array("lower"))
    assert isinstance(got, Refusal) and got.reason is Reason.COLLISION and "wall" in got.detail


@pytest.mark.skipif(importlib.util.find_spec("moveit") is not None, reason="moveit_py is installed here")
def test_without_moveit_the_straight_planner_is_used_unless_moveit_is_asked_for():
    assert make_planner("auto", ROBOT, None, print).name == "straight"
    with pytest.raises(MissingDependencyError, match=r"moveit-py"):
        make_planner("moveit", ROBOT, None, print)


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is not None, reason="cv_bridge is installed here")
def test_without_cv_bridge_the_adapter_names_the_package():
    from internvla_a1.ros.image_bridge import CvBridgeReader

    with pytest.raises(MissingDependencyError, match="cv-bridge"):
        CvBridgeReader()
