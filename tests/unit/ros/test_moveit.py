"""MoveIt behind the gate and the planner, on a stand-in of what moveit_py documents: MoveItPy, its scene monitor, its components."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.nodes import homing
from internvla_a1.nodes.homing import make_gate
from internvla_a1.ros import moveit

ROBOT = load_robot(find("config/robots/demo_arm.yaml"))
HOME = ROBOT.array("home")


class State:
    def __init__(self, model):
        self.joint_positions, self.fresh = {}, False

    def set_to_default_values(self):
        pass

    def update(self):
        self.fresh = True


class Scene:
    """Joint 1 beyond 0.5 rad touches something."""

    def is_state_colliding(self, robot_state, joint_model_group_name, verbose):
        assert robot_state.fresh and joint_model_group_name == "", "the whole robot, its transforms updated"
        return robot_state.joint_positions["joint_1"] > 0.5


class MoveItPy:
    started = 0

    def __init__(self, node_name):
        type(self).started += 1

    def get_robot_model(self):
        return SimpleNamespace(joint_model_groups=[SimpleNamespace(name="arm"), SimpleNamespace(name="gripper")])

    def get_planning_scene_monitor(self):
        @contextmanager
        def read_only():
            yield Scene()

        return SimpleNamespace(read_only=read_only)

    def get_planning_component(self, group):
        return Component()


class Component:
    """Plans straight to the goal in two points, arm joints only and in an order of its own."""

    def set_start_state(self, robot_state):
        self.start = robot_state.joint_positions

    def set_goal_state(self, robot_state):
        self.goal = robot_state.joint_positions

    def plan(self):
        names = [f"joint_{i}" for i in range(6, 0, -1)]
        points = [
            SimpleNamespace(positions=[at[n] for n in names], time_from_start=SimpleNamespace(sec=sec, nanosec=0))
            for sec, at in enumerate((self.start, self.goal))
        ]
        message = SimpleNamespace(joint_trajectory=SimpleNamespace(joint_names=names, points=points))
        return SimpleNamespace(trajectory=SimpleNamespace(get_robot_trajectory_msg=lambda: message))


@pytest.fixture
def stand_in(monkeypatch):
    MoveItPy.started = 0
    for name in ("moveit", "moveit.core", "moveit.core.robot_state", "moveit.planning"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["moveit.core.robot_state"].RobotState = State
    sys.modules["moveit.planning"].MoveItPy = MoveItPy
    moveit.connect.cache_clear()
    yield
    moveit.connect.cache_clear()


def test_a_chunk_is_cut_before_what_moveits_scene_says_collides(stand_in):
    gate = make_gate("moveit", ROBOT, print)
    path = np.tile(HOME, (20, 1))
    path[:, 0] = np.linspace(0.05, 1.0, 20)
    result = gate.check(HOME, path)
    assert gate.name == "moveit" and result.safe == 10 and "MoveIt" in result.hit
    assert gate.check(HOME, path[:10]).safe == 10


def test_gate_and_planner_share_one_moveit(stand_in):
    make_gate("moveit", ROBOT, print)
    planner = moveit.MoveItPlanner(ROBOT, "arm")
    times, positions = planner.plan(HOME, HOME + 0.1)
    assert MoveItPy.started == 1
    assert np.array_equal(times, [0.0, 1.0]) and np.allclose(positions[:, :6], [HOME[:6], HOME[:6] + 0.1])
    assert np.array_equal(positions[:, 6], [HOME[6]] * 2), "a joint outside the group keeps its place"


def test_a_plan_that_moveit_does_not_find_is_refused(stand_in, monkeypatch):
    class Failed:
        error_code = -1

        def __bool__(self):
            return False

    monkeypatch.setattr(Component, "plan", lambda self: Failed())
    answer = moveit.MoveItPlanner(ROBOT, "arm").plan(HOME, HOME + 0.1)
    assert isinstance(answer, Refusal) and "arm" in answer.detail


def test_an_unknown_group_and_a_moveit_that_does_not_start_are_said(stand_in, monkeypatch):
    with pytest.raises(ConfigError, match="leg"):
        moveit.MoveItPlanner(ROBOT, "leg")

    def broken(node_name):
        raise RuntimeError("no robot_description")

    moveit.connect.cache_clear()
    sys.modules["moveit.planning"].MoveItPy = broken
    with pytest.raises(ConfigError, match="robot_description"):
        make_gate("moveit", ROBOT, print)


def test_pinocchio_comes_before_moveit_and_moveit_before_nothing(stand_in, monkeypatch):
    assert make_gate("auto", ROBOT, print).name == "pinocchio"
    monkeypatch.setattr(homing, "PinocchioGate", missing)
    assert make_gate("auto", ROBOT, print).name == "moveit"
    monkeypatch.setitem(sys.modules, "moveit.planning", None)
    moveit.connect.cache_clear()
    said = []
    assert make_gate("auto", ROBOT, said.append) is None
    assert len(said) == 1 and "pinocchio" in said[0] and "moveit" in said[0].lower()
    assert make_gate("none", ROBOT, print) is None


def missing(*_, **__):
    from internvla_a1.core.errors import MissingDependencyError

    raise MissingDependencyError("pinocchio with coal", "the collision gate", "pip install pin")
