"""The teleop node as a process: deadman, joystick, leader arm."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import HandoverState
from internvla_a1_msgs.srv import SetMode
from lifecycle_msgs.msg import Transition
from processes import Graph
from sensor_msgs.msg import JointState, Joy
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core import types
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.ros import qos
from internvla_a1.ros.joints import joint_state_msg

pytestmark = pytest.mark.ros
ROBOT = load_robot(find("config/robots/demo_arm.yaml"))
HOME = ROBOT.array("home")
DEADMAN = 4


class Bench:
    """Joint states at home, a joystick and a leader arm at 50 Hz."""

    def __init__(self, folder, **params):
        self.graph = graph = Graph(folder)
        graph.start("teleop", input_timeout=0.5, **params)
        self.commands = graph.collect(JointTrajectory, "teleop/joint_command", qos.DEFAULT)
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self.states = graph.publisher(JointState, "joint_states", qos.SENSOR)
        self.leader = graph.publisher(JointState, "leader/joint_states", qos.SENSOR)
        self.joy = graph.publisher(Joy, "joy", qos.DEFAULT)
        self.axes, self.held, self.target = [0.0] * 8, False, HOME
        graph.node.create_timer(0.02, self.play)
        graph.up("teleop")

    def now(self):
        return self.graph.node.get_clock().now().nanoseconds

    def play(self):
        self.states.publish(joint_state_msg(types.JointState(self.now(), HOME), ROBOT.joint_names))
        if self.target is not None:
            self.leader.publish(joint_state_msg(types.JointState(self.now(), self.target), [f"leader_{n}" for n in ROBOT.joint_names]))
        self.joy.publish(Joy(axes=self.axes, buttons=[int(i == DEADMAN and self.held) for i in range(8)]))

    def positions(self):
        return np.array(self.commands[-1].points[0].positions)

    def counter(self, name):
        found = [v.value for m in self.diagnostics for s in m.status if s.name == "teleop" for v in s.values if v.key == name]
        return int(found[-1]) if found else 0

    def waited(self, done):
        return self.graph.until(done, 10.0)


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(**params):
        made.append(Bench(tmp_path, **params))
        return made[-1]

    yield make
    for bench in made:
        bench.graph.close()


def test_a_joystick_moves_a_joint_while_the_deadman_is_held_and_says_when_it_is_let_go(bench):
    b = bench(space="joint", axes="[0, 1, -1, -1, -1, -1, 2]")
    b.axes[0] = 1.0
    b.graph.until(lambda: False, 0.5)
    assert b.commands == []
    b.held = True
    assert b.waited(lambda: len(b.commands) > 10)
    assert list(b.commands[-1].joint_names) == list(ROBOT.joint_names)
    assert b.positions()[0] > HOME[0] + 0.01 and np.allclose(b.positions()[1:], HOME[1:])
    assert b.positions()[0] - HOME[0] < 0.5 * 0.1 + 0.02  # the target leads the arm by a tenth of a second at most
    b.held = False
    assert b.waited(lambda: b.commands[-1].points == [])
    count = len(b.commands)
    b.graph.until(lambda: False, 0.4)
    assert len(b.commands) == count
    b.axes[0], b.held = float("nan"), True
    assert b.waited(lambda: b.counter("refused/non_finite") > 0) and len(b.commands) == count


def test_a_joystick_moves_the_tool_along_one_axis(bench):
    b = bench(space="cartesian", linear_speed=0.05)
    b.held, b.axes[1] = True, 1.0
    assert b.waited(lambda: len(b.commands) > 10)
    moved = b.positions() - HOME
    assert np.abs(moved[:6]).max() > 1e-3 and abs(moved[0]) < 1e-6 and abs(moved[6]) < 1e-9  # forwards: the base joint does not turn


def test_a_leader_arm_is_followed_while_the_deadman_is_held_and_lost_when_it_is_silent(bench):
    b = bench(device="leader", leader_prefix="leader_")
    b.target = HOME + 0.1
    b.graph.until(lambda: False, 0.5)
    assert b.commands == []
    b.held = True
    assert b.waited(lambda: b.commands and b.commands[-1].points and np.allclose(b.positions(), HOME + 0.1))
    b.target = None
    assert b.waited(lambda: b.commands[-1].points == [])


def test_deactivated_with_the_deadman_held_it_lets_go(bench):
    b = bench(device="leader", leader_prefix="leader_", deadman_source="always")
    assert b.waited(lambda: len(b.commands) > 3)
    assert b.graph.change("teleop", Transition.TRANSITION_DEACTIVATE)
    assert b.waited(lambda: b.commands[-1].points == [])
    assert b.graph.end("teleop") == 0


def test_a_person_takes_the_arm_from_the_policy_and_gives_it_back(tmp_path):
    graph = Graph(tmp_path)
    graph.start("cell", stamps="wall", camera_rate=1.0, tf_rate=0.0)
    graph.start("executor", joint_state_age_s=1.0, pause_s=1.0, teleop_age_s=0.5, first_chunk_s=30.0)
    graph.start("teleop", space="joint", axes="[0, 1, -1, -1, -1, -1, 2]", input_timeout=0.5)
    modes = graph.collect(HandoverState, "handover/state", qos.LATCHED)
    states = graph.collect(JointState, "joint_states", qos.SENSOR)
    joy, held = graph.publisher(Joy, "joy", qos.DEFAULT), [0] * 8
    graph.node.create_timer(0.02, lambda: joy.publish(Joy(axes=[1.0] + [0.0] * 7, buttons=held)))
    try:
        assert graph.until(lambda: states, 40.0), graph.log("cell")
        graph.up("executor", "teleop")

        def turned():
            return states[-1].position[list(states[-1].name).index("joint_1")]

        def mode_is(mode):
            return graph.until(lambda: modes and modes[-1].mode == mode, 10.0)

        def ask(mode):
            return graph.call(SetMode, "handover/set_mode", SetMode.Request(mode=mode))

        assert graph.until(lambda: ask("policy").success, 10.0) and mode_is(HandoverState.POLICY)
        held[DEADMAN] = 1
        assert mode_is(HandoverState.TELEOP), graph.log("executor")
        assert graph.until(lambda: turned() > 0.1)
        held[DEADMAN] = 0
        assert mode_is(HandoverState.HOLD) and "deadman" in modes[-1].reason
        here = turned()
        graph.until(lambda: False, 0.5)
        assert turned() - here < 0.1  # braking way, then rest
        assert ask("policy").success and mode_is(HandoverState.POLICY)
    finally:
        graph.close()
