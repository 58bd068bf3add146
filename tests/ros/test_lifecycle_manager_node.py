"""The lifecycle manager over real processes: order, crash, hang, refusal."""

from __future__ import annotations

import signal

import pytest
from internvla_a1_msgs.msg import HandoverState
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from processes import Graph
from std_srvs.srv import Trigger

from internvla_a1.ros import heartbeat, qos

pytestmark = pytest.mark.ros


class Watch:
    """The newest state that each node says it is in."""

    def __init__(self, graph):
        from diagnostic_msgs.msg import KeyValue

        self.states = {}
        graph.node.create_subscription(KeyValue, heartbeat.TOPIC, self.hear, qos.DEFAULT)

    def hear(self, message):
        beat = heartbeat.read_beat(message)
        self.states[beat.node] = beat.state, beat.pid

    def says(self, node, state, pid=None):
        return self.states.get(node, ("", 0))[0] == state and pid in (None, self.states[node][1])


@pytest.fixture
def graph(tmp_path):
    graph = Graph(tmp_path)
    yield graph
    graph.close()


def test_nodes_come_up_in_order_come_back_after_a_crash_and_a_hang_and_go_down(graph):
    watch = Watch(graph)
    modes = graph.collect(HandoverState, "handover/state", qos.LATCHED)
    graph.start("lifecycle_manager", nodes="[executor, sample]", kill_silent=2.0)
    graph.start("infra_sample")
    graph.until(lambda: "/sample" in watch.states, 20.0)
    graph.until(lambda: False, 0.5)
    assert watch.says("/sample", "unconfigured")  # the executor is first and not there yet
    graph.start("executor")
    assert graph.until(lambda: watch.says("/executor", "active") and watch.says("/sample", "active"), 30.0), graph.log("lifecycle_manager")
    assert graph.until(lambda: "up: /executor, /sample" in graph.log("lifecycle_manager"))
    # by the manager's own account: a beat may be lost before this process has found the node
    wanted = ("/executor: configure", "/executor: activate", "/sample: activate")
    steps = [graph.log("lifecycle_manager").find(f"{step} done") for step in wanted]
    assert -1 < steps[0] < steps[1] < steps[2]

    graph.end("executor", signal.SIGKILL)
    assert graph.until(lambda: "/executor is silent" in graph.log("lifecycle_manager"), 10.0)
    graph.start("executor")  # what the launch runner does
    pid = graph.processes["executor"].pid
    assert graph.until(lambda: watch.says("/executor", "active", pid), 40.0), graph.log("lifecycle_manager")
    assert graph.until(lambda: modes and modes[-1].mode == HandoverState.HOLD)

    hung = graph.processes["infra_sample"]
    hung.send_signal(signal.SIGSTOP)
    assert graph.until(lambda: hung.poll() is not None, 15.0), graph.log("lifecycle_manager")
    assert hung.returncode == -signal.SIGKILL and watch.says("/executor", "active", pid)
    graph.start("infra_sample")
    pid = graph.processes["infra_sample"].pid
    assert graph.until(lambda: watch.says("/sample", "active", pid), 40.0), graph.log("lifecycle_manager")

    assert graph.call(Trigger, "lifecycle_manager/bring_down", Trigger.Request()).success
    assert graph.until(lambda: watch.says("/executor", "unconfigured") and watch.says("/sample", "unconfigured"), 20.0)
    assert graph.end("lifecycle_manager") == 0


def test_a_node_that_refuses_is_given_up_and_the_others_run(graph):
    watch = Watch(graph)
    graph.start("lifecycle_manager", nodes="[sample, executor]", max_failures=2, retry_delay=0.2)
    graph.start("infra_sample", fault="refuse")
    graph.start("executor")
    assert graph.until(lambda: watch.says("/executor", "active"), 40.0), graph.log("lifecycle_manager")
    assert graph.until(lambda: "/sample is given up" in graph.log("lifecycle_manager"), 20.0)
    assert graph.log("infra_sample").count("the sample refuses") == 3
    assert graph.call(GetState, "sample/get_state", GetState.Request()).current_state.id == State.PRIMARY_STATE_UNCONFIGURED
