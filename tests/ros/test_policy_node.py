"""The policy node as a process, around a small policy of the test."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import ActionChunk, ExecutorStatus, Foresight, HandoverState, Observation
from internvla_a1_msgs.srv import SetInstruction
from lifecycle_msgs.msg import Transition
from processes import Graph
from samples import CAMERAS, ROBOT, observation
from std_msgs.msg import String

from internvla_a1.ros import convert, qos
from internvla_a1.ros.time import stamp_ns

pytestmark = pytest.mark.ros
RATE_HZ = 20.0


class Bench:
    """A policy node that is fed observations at 20 Hz."""

    def __init__(self, folder: Path) -> None:
        self.graph = graph = Graph(folder)
        graph.start("sample_policy", period_s=0.1)
        self.chunks = graph.collect(ActionChunk, "policy/action_chunk", qos.RELIABLE)
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self._observations = graph.publisher(Observation, "perception/observation", qos.NEWEST)
        self.instructions = graph.publisher(String, "instruction", qos.LATCHED)
        self.modes = graph.publisher(HandoverState, "handover/state", qos.LATCHED)
        self.status = graph.publisher(ExecutorStatus, "executor/status", qos.RELIABLE)
        graph.node.create_timer(1.0 / RATE_HZ, self._observe)
        self.feeding, self.offset_ns = True, 0
        graph.up("policy")

    def _observe(self) -> None:
        if self.feeding:
            now = self.graph.node.get_clock().now().nanoseconds + self.offset_ns
            self._observations.publish(convert.observation_msg(observation(now), CAMERAS))

    def say(self, words: str) -> SetInstruction.Response:
        return self.graph.call(SetInstruction, "policy/set_instruction", SetInstruction.Request(instruction=words))

    def fresh(self, count: int = 3, timeout_s: float = 8.0) -> list[ActionChunk]:
        """The next chunks."""
        self.chunks.clear()
        assert self.graph.until(lambda: len(self.chunks) >= count, timeout_s), f"no chunks\n{self.graph.log('sample_policy')}"
        return self.chunks[:count]

    def diagnosed(self, key: str) -> str:
        values = [{v.key: v.value for v in s.values} for a in self.diagnostics for s in a.status if s.hardware_id == "policy"]
        return next((v[key] for v in reversed(values) if key in v), "")

    def health(self) -> str:
        return next((s.message for a in reversed(self.diagnostics) for s in a.status if s.hardware_id == "policy"), "")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("policy"))
    yield bench
    bench.graph.close()


def test_without_an_instruction_there_are_no_chunks_and_the_node_says_why(bench):
    assert bench.graph.until(lambda: bench.health() == "waiting for an instruction")
    assert not bench.chunks


def test_every_chunk_carries_the_stamp_of_its_observation_and_the_instruction(bench):
    bench.instructions.publish(String(data="  sweep \n the\x07 floor "))
    chunks = bench.fresh(4)
    stamps = [stamp_ns(c.header.stamp) for c in chunks]
    assert all(c.instruction == "sweep the floor" and c.source == "policy" for c in chunks)
    assert [c.id - chunks[0].id for c in chunks] == [0, 1, 2, 3]
    assert all(b - a >= 0.09e9 for a, b in pairwise(stamps)), "the period"
    assert all(0 < c.inference_time < 1.0 for c in chunks)


def test_the_past_is_the_observation_of_history_s_ago(bench):
    bench.graph.until(lambda: False, 0.7)
    ages = [convert.chunk(c, ROBOT.joint_names).positions[-1, 0] for c in bench.fresh()]
    assert all(0.35 < age < 0.65 for age in ages), ages


def test_an_instruction_from_the_service_is_answered_and_a_hostile_one_is_cleaned(bench):
    assert bench.say("sweep again").message == "sweep again"
    answer = bench.say("sweep " + "x" * 100_000 + "\x00\x1b[2J")
    assert answer.success and len(answer.message) <= 512
    bench.say("sweep")


def test_an_empty_instruction_makes_the_arm_wait_where_it_is(bench):
    assert bench.say("").success
    bench.fresh(2)
    rows = convert.chunk(bench.fresh(1)[0], ROBOT.joint_names).positions
    np.testing.assert_allclose(rows, np.tile(ROBOT.array("home"), (len(rows), 1)))
    bench.say("sweep")


def test_steps_that_will_have_run_are_repeated_in_the_next_chunk(bench):
    bench.modes.publish(HandoverState(mode=HandoverState.POLICY))
    bench.say("slow sweep")
    bench.status.publish(ExecutorStatus(chunk_id=bench.fresh(1)[0].id))
    plan, following = bench.fresh(4)[-2:]
    before, after = (convert.chunk(c, ROBOT.joint_names).positions[:, 0] for c in (plan, following))
    dt, frozen = ROBOT.control_dt_s, following.frozen_steps
    assert int(0.5 / dt) <= frozen < plan.steps, "an inference takes half a second"
    shift = (stamp_ns(following.header.stamp) - stamp_ns(plan.header.stamp)) / 1e9
    grid = dt * np.arange(1, plan.steps + 1)
    np.testing.assert_allclose(after[:frozen], np.interp(shift + grid[:frozen], grid, before), atol=1e-6)
    bench.modes.publish(HandoverState(mode=HandoverState.HOLD))
    bench.say("sweep")


def test_an_arm_that_is_held_away_from_its_chunk_is_committed_to_nothing(bench):
    bench.modes.publish(HandoverState(mode=HandoverState.POLICY))
    bench.say("slow sweep")
    chunk = bench.fresh(1)[0]
    away = (convert.chunk(chunk, ROBOT.joint_names).positions[0] + 0.5).tolist()
    held_ns, names = stamp_ns(chunk.header.stamp), ROBOT.joint_names[::-1]

    def report() -> None:
        age_s = (bench.graph.node.get_clock().now().nanoseconds - held_ns) / 1e9
        bench.status.publish(ExecutorStatus(chunk_id=chunk.id, chunk_age=age_s, joint_names=names, commanded=away[::-1]))

    timer = bench.graph.node.create_timer(0.05, report)
    held = bench.fresh(3)[-1]
    bench.graph.node.destroy_timer(timer)
    bench.status.publish(ExecutorStatus(chunk_id=held.id))
    assert held.frozen_steps == 0 and bench.fresh(3)[-1].frozen_steps > 0
    bench.modes.publish(HandoverState(mode=HandoverState.HOLD))
    bench.say("sweep")


def test_a_give_back_resets_the_policy_and_drops_the_chunk_in_work(bench):
    bench.say("sweep")
    before = convert.chunk(bench.fresh(2)[-1], ROBOT.joint_names).positions[-1, 1]
    bench.modes.publish(HandoverState(mode=HandoverState.TELEOP))
    bench.graph.until(lambda: False, 0.3)
    bench.modes.publish(HandoverState(mode=HandoverState.POLICY))
    given_back = bench.graph.node.get_clock().now().nanoseconds
    bench.graph.until(lambda: False, 0.3)
    later = [c for c in bench.fresh(3) if stamp_ns(c.header.stamp) > given_back]
    assert convert.chunk(later[0], ROBOT.joint_names).positions[-1, 1] == before + 1


def test_old_and_foreign_observations_are_refused_by_name(bench):
    bench.feeding = False
    bench.graph.until(lambda: False, 0.2)
    count = len(bench.diagnostics)
    bench.feeding, bench.offset_ns = True, -int(5e9)
    assert bench.graph.until(lambda: "stamp_old" in bench.diagnosed("last_refusal") and len(bench.diagnostics) > count + 1)
    bench.offset_ns = 0
    bench.fresh(2)


def test_a_policy_that_runs_out_of_memory_is_tried_once_a_second_and_recovers(bench):
    bench.say("fail")
    began = time.monotonic()
    bench.graph.until(lambda: False, 2.5)
    errors = int(bench.diagnosed("inference_errors"))
    assert 1 <= errors <= 1 + (time.monotonic() - began)
    assert "CUDA out of memory" in bench.health()
    assert bench.say("sweep").success, "the node answers"
    bench.fresh(2)
    assert bench.graph.until(lambda: "following" in bench.health())


def test_the_foresight_is_decoded_only_for_listeners(bench):
    bench.fresh(1)
    assert bench.diagnosed("foresight_ms") == ""
    received = bench.graph.collect(Foresight, "policy/foresight", qos.RELIABLE)
    assert bench.graph.until(lambda: len(received) >= 2)
    message = received[-1]
    assert len(message.images) == 3 and list(message.latent_shape) == [3, 4, 2, 2] and message.horizon == pytest.approx(0.5)


def test_weights_that_are_not_there_are_refused_at_configure_with_the_path_and_the_node_stays(bench, tmp_path):
    graph = Graph(tmp_path)
    try:
        graph.start("policy", policy="network", checkpoint=str(tmp_path / "nowhere"))
        assert not graph.change("policy", Transition.TRANSITION_CONFIGURE)
        assert str(tmp_path / "nowhere") in graph.log("policy")
        assert graph.processes["policy"].poll() is None
        assert graph.end("policy") == 0
    finally:
        graph.close()


def test_ctrl_c_ends_it_with_zero(bench):
    assert bench.graph.end("sample_policy") == 0, bench.graph.log("sample_policy")
