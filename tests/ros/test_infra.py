"""The base classes under the defects of rclpy that they guard against, as processes."""

from __future__ import annotations

import signal
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, KeyValue
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from processes import Graph
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import String

from internvla_a1.ros import heartbeat, qos

pytestmark = pytest.mark.ros


@pytest.fixture
def graph(tmp_path):
    graph = Graph(tmp_path)
    yield graph
    graph.close()


def state(graph):
    return graph.call(GetState, "sample/get_state", GetState.Request()).current_state.id


def counters(messages, name):
    found = [s for m in messages for s in m.status if s.name == name]
    return {v.key: v.value for v in found[-1].values} if found else {}


def test_a_node_survives_wrong_transitions_and_raising_callbacks_and_counts_them(graph):
    graph.start("infra_sample")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
    answers = graph.collect(String, "sample/out", qos.RELIABLE)
    for transition in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE, 99):
        assert not graph.change("sample", transition)
    assert state(graph) == State.PRIMARY_STATE_UNCONFIGURED
    graph.up("sample")
    assert not graph.change("sample", Transition.TRANSITION_CONFIGURE)
    request = ChangeState.Request()
    request.transition.label = "no such transition"
    assert not graph.call(ChangeState, "sample/change_state", request).success
    texts = graph.publisher(String, "sample/in", qos.RELIABLE)
    assert graph.until(lambda: texts.get_subscription_count() == 1)
    texts.publish(String(data=""))
    assert graph.until(lambda: counters(diagnostics, "sample").get("internal_error") == "1")
    texts.publish(String(data="four"))
    assert graph.until(lambda: [m.data for m in answers] == ["0.25"])
    assert "ZeroDivisionError" in graph.log("infra_sample")
    assert diagnostics[-1].status[0].hardware_id == "sample"


def test_an_inactive_node_is_deaf(graph):
    graph.start("infra_sample")
    answers = graph.collect(String, "sample/out", qos.RELIABLE)
    assert graph.change("sample", Transition.TRANSITION_CONFIGURE)
    texts = graph.publisher(String, "sample/in", qos.RELIABLE)
    assert graph.until(lambda: texts.get_subscription_count() == 1)
    texts.publish(String(data="four"))
    graph.until(lambda: False, 0.5)
    assert answers == []


@pytest.mark.parametrize(("params", "words"), [
    ({"fault": "crash"}, ["ZeroDivisionError: the sample crashes"]),
    ({"speed": ".nan", "fault": "no", "sped": "1.0"}, [
        "parameter speed: asked for nan, allowed: float in [0, 2] m/s",
        "parameter fault: asked for False, allowed: str out of none, refuse, crash, hang",
        "unknown parameter: asked for 'sped', available: speed, fault",
    ]),
])  # fmt: skip
def test_a_node_that_cannot_be_configured_stays_unconfigured_and_says_why(graph, params, words):
    graph.start("infra_sample", **params)
    assert not graph.change("sample", Transition.TRANSITION_CONFIGURE)
    assert state(graph) == State.PRIMARY_STATE_UNCONFIGURED
    assert all(word in graph.log("infra_sample") for word in words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_twice_ends_a_node_with_0_within_2_s_after_its_last_words(graph, number):
    graph.start("infra_sample")
    said = graph.collect(String, "sample/out", qos.RELIABLE)
    graph.up("sample")
    began = time.monotonic()
    graph.processes["infra_sample"].send_signal(number)
    graph.until(lambda: False, 0.03)
    assert graph.end("infra_sample", number) == 0
    assert time.monotonic() - began < 2.0
    assert "deactivated" in graph.log("infra_sample") and "Traceback" not in graph.log("infra_sample")
    assert graph.until(lambda: [m.data for m in said] == ["last words"], 1.0)


def test_a_node_that_hangs_in_a_callback_still_ends_within_2_s(graph):
    graph.start("infra_sample", fault="hang")
    graph.up("sample")
    texts = graph.publisher(String, "sample/in", qos.RELIABLE)
    assert graph.until(lambda: texts.get_subscription_count() == 1)
    texts.publish(String(data="x"))
    graph.until(lambda: False, 0.3)
    began = time.monotonic()
    assert graph.end("infra_sample") == 0
    assert time.monotonic() - began < 2.3


def test_incompatible_quality_of_service_is_logged_and_counted(graph):
    graph.start("infra_sample")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
    assert graph.change("sample", Transition.TRANSITION_CONFIGURE)
    graph.publisher(String, "sample/in", qos_profile_sensor_data)  # best effort does not fit reliable
    assert graph.until(lambda: counters(diagnostics, "sample").get("incompatible_qos/sample/in") == "RELIABILITY")
    assert "quality of service does not fit" in graph.log("infra_sample")


def test_a_node_beats_four_times_a_second_with_state_and_process(graph):
    graph.start("infra_sample")
    beats = graph.collect(KeyValue, heartbeat.TOPIC, qos.DEFAULT)
    assert graph.until(lambda: len(beats) > 0)
    graph.change("sample", Transition.TRANSITION_CONFIGURE)
    before, began = len(beats), time.monotonic()
    graph.until(lambda: len(beats) - before >= 8, 5.0)
    assert 8 / (time.monotonic() - began) > 3.5
    assert heartbeat.read_beat(beats[-1]) == heartbeat.Beat("/sample", "inactive", graph.processes["infra_sample"].pid)
