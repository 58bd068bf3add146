"""Homing paths keep the limits, and optional packages that are missing are named."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.limits import limits_of
from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.nodes import homing
from internvla_a1.nodes.homing import make_planner

ROBOT = load_robot(find("config/robots/demo_arm.yaml"))
LIMITS = limits_of(ROBOT, ExecutorConfig())
HAS_MOVEIT = importlib.util.find_spec("moveit") is not None


class Wall:
    """A gate that finds a hit after the first waypoints."""

    name = "wall"

    def check(self, start, path, leaving=False):
        return PathCheck(min(3, len(path) - 1), "link_4 with the wall")


def missing(*_, **__):
    raise MissingDependencyError("roboplan", "planning", "pip install it")


def test_its_own_path_starts_and_ends_at_rest_within_the_limits():
    rng, planner = np.random.default_rng(1), make_planner("own", ROBOT, LIMITS, None, print)
    for _ in range(200):
        start, goal = (rng.uniform(LIMITS.lower, LIMITS.upper) for _ in range(2))
        times, path = planner.plan(start, goal)
        assert np.array_equal(path[0], start) and np.allclose(path[-1], goal) and (np.diff(times) > 0).all()
        speed = np.diff(path, axis=0) / np.diff(times)[:, None]
        turn = np.diff(speed, axis=0) / np.diff(times)[:-1, None]
        assert (np.abs(speed) <= 0.31 * ROBOT.array("max_velocity")).all()
        assert (np.abs(turn) <= 0.31 * ROBOT.array("max_acceleration")).all()


@pytest.mark.parametrize("kind", ["own", "roboplan"])
def test_a_way_through_a_wall_is_refused_with_what_it_hits(kind):
    got = make_planner(kind, ROBOT, LIMITS, Wall(), print).plan(ROBOT.array("home"), ROBOT.array("home") + 0.2 * ~ROBOT.gripper_mask)
    assert isinstance(got, Refusal) and got.reason is Reason.COLLISION


@pytest.mark.skipif(HAS_MOVEIT, reason="moveit_py is installed here")
def test_the_first_planner_that_is_installed_is_used_unless_another_is_asked_for(monkeypatch):
    assert make_planner("auto", ROBOT, LIMITS, None, print).name.startswith("roboplan")
    monkeypatch.setattr(homing, "RoboplanPlanner", missing)
    assert make_planner("auto", ROBOT, LIMITS, None, print).name == "straight"
    assert "RRT-connect on wall" in make_planner("auto", ROBOT, LIMITS, Wall(), print).name
    with pytest.raises(MissingDependencyError, match="roboplan"):
        make_planner("roboplan", ROBOT, LIMITS, None, print)
    with pytest.raises(MissingDependencyError, match=r"moveit-py"):
        make_planner("moveit", ROBOT, LIMITS, None, print)


@pytest.mark.skipif(HAS_MOVEIT, reason="moveit_py is installed here")
def test_a_robot_that_roboplan_cannot_read_is_said_and_planned_for_all_the_same():
    said = []

    def read(_):
        return "<robot name='no_joints'><link name='base'/></robot>"

    assert make_planner("auto", ROBOT, LIMITS, None, said.append, read).name == "straight"
    assert len(said) == 1 and said[0].startswith("roboplan is not used")
    with pytest.raises(ConfigError):
        make_planner("roboplan", ROBOT, LIMITS, None, print, read)


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is not None, reason="cv_bridge is installed here")
def test_without_cv_bridge_the_adapter_names_the_package():
    from internvla_a1.ros.image_bridge import CvBridgeReader

    with pytest.raises(MissingDependencyError, match="cv-bridge"):
        CvBridgeReader()
