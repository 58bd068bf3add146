"""The recorder as a process; its files are read back with readers that are not ours."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import ActionChunk, ExecutorStatus, HandoverState, Observation
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from processes import Graph
from rosbags.highlevel import AnyReader
from samples import CAMERAS, ROBOT, chunk, observation, picture
from std_msgs.msg import String
from std_srvs.srv import Trigger

from internvla_a1.ros import convert, qos

pytestmark = pytest.mark.ros


class Bench:
    """A recorder that hears observations and chunks at 20 Hz."""

    def __init__(self, folder: Path, **start: Any) -> None:
        self.graph = graph = Graph(folder)
        self.folder = folder / "episodes"
        graph.start("recorder", **{"folder": self.folder, "min_free_mb": 1, **start})
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self._observations = graph.publisher(Observation, "perception/observation", qos.NEWEST)
        self._chunks = graph.publisher(ActionChunk, "policy/action_chunk", qos.RELIABLE)
        self.status = graph.publisher(ExecutorStatus, "executor/status", qos.RELIABLE)
        self.modes = graph.publisher(HandoverState, "handover/state", qos.LATCHED)
        self.instructions = graph.publisher(String, "instruction", qos.LATCHED)
        self.stamps: list[int] = []
        graph.node.create_timer(0.05, self._tick)
        assert graph.until(lambda: self._observations.get_subscription_count() > 0)

    def _tick(self) -> None:
        now = self.graph.node.get_clock().now().nanoseconds
        self.stamps.append(now)
        self._observations.publish(convert.observation_msg(observation(now), CAMERAS))
        self._chunks.publish(convert.chunk_msg(chunk(now, len(self.stamps))))

    def run(self, seconds: float) -> None:
        self.graph.until(lambda: False, seconds)

    def call(self, name: str) -> Trigger.Response:
        return self.graph.call(Trigger, f"recorder/{name}", Trigger.Request())

    def health(self) -> str:
        return next((s.message for a in reversed(self.diagnostics) for s in a.status if s.hardware_id == "recorder"), "")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("recorder"))
    yield bench
    bench.graph.close()


@pytest.fixture(scope="module")
def episode(bench):
    """An episode with one intervention."""
    bench.instructions.publish(String(data="put the red box in the left bin"))
    bench.modes.publish(HandoverState(mode=HandoverState.POLICY))
    bench.run(0.5)
    folder = Path(bench.call("start").message)
    bench.run(0.6)
    bench.modes.publish(HandoverState(mode=HandoverState.TELEOP))
    bench.run(0.5)
    bench.modes.publish(HandoverState(mode=HandoverState.HOLD))
    bench.run(0.4)
    answer = bench.call("stop")
    assert answer.success and Path(answer.message) == folder
    return folder


def read(folder: Path) -> tuple[dict[str, list[Any]], dict[str, Any], Any]:
    """Messages by topic, episode.json, and the summary of the file."""
    (path,) = folder.glob("*.mcap")
    messages: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        for _, channel, _, message in reader.iter_decoded_messages():
            messages.setdefault(channel.topic, []).append(message)
        (note,) = [json.loads(a.data) for a in reader.iter_attachments() if a.name == "episode.json"]
        return messages, note, reader.get_summary()


def test_a_standard_reader_finds_what_was_sent(bench, episode):
    messages, _, _ = read(episode)
    seen = messages["/perception/observation"]
    assert len(seen) >= 20
    sent = observation(seen[0].header.stamp.sec * 10**9 + seen[0].header.stamp.nanosec)
    assert sent.stamp_ns in bench.stamps
    pixels = np.frombuffer(bytes(seen[0].images[0].data), np.uint8).reshape(96, 96, 3)
    np.testing.assert_array_equal(pixels, picture(sent.stamp_ns))
    assert tuple(messages["/policy/action_chunk"][0].joint_names) == ROBOT.joint_names


def test_an_episode_begins_with_the_latched_state_it_began_in(episode):
    messages, note, _ = read(episode)
    assert messages["/instruction"][0].data == "put the red box in the left bin"
    assert messages["/handover/state"][0].mode == HandoverState.POLICY
    assert note["instructions"][0][1] == "put the red box in the left bin"


def test_the_intervention_is_marked_with_its_span(episode):
    _, note, _ = read(episode)
    ((begin, end),) = note["interventions"]
    assert 0.3e9 < end - begin < 1.0e9
    assert note["start_ns"] < begin < end < note["end_ns"]


def test_it_is_a_rosbag2_folder(episode):
    info = yaml.safe_load((episode / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["storage_identifier"] == "mcap" and (episode / info["relative_file_paths"][0]).is_file()
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in info["topics_with_message_count"]}
    assert counts["/perception/observation"] >= 20
    assert info["message_count"] == sum(counts.values())
    types = {t["topic_metadata"]["name"]: t["topic_metadata"]["type"] for t in info["topics_with_message_count"]}
    assert types["/perception/observation"] == "internvla_a1_msgs/msg/Observation"


def test_rosbags_reads_every_message_of_it(episode):
    with AnyReader([episode]) as reader:
        total = sum(1 for connection, _, raw in reader.messages() if reader.deserialize(raw, connection.msgtype) is not None)
        assert total == reader.message_count > 40


def test_start_and_stop_say_what_is_wrong_when_they_are_called_twice(bench, episode):
    assert "not recording" in bench.call("stop").message
    assert bench.call("start").success
    assert "already recording" in bench.call("start").message
    assert bench.call("stop").success


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_file_in_order(tmp_path, number):
    bench = Bench(tmp_path, record_on_start="true")
    try:
        bench.run(1.0)
        assert bench.graph.end("recorder", number) == 0
        (folder,) = bench.folder.iterdir()
        messages, note, summary = read(folder)
        assert summary.statistics.message_count == sum(map(len, messages.values()))
        assert note["dropped"] == 0 and len(messages["/perception/observation"]) > 5
    finally:
        bench.graph.close()


def test_a_disk_that_is_full_is_reported_once_and_the_node_goes_on(tmp_path):
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    bench = Bench(tmp_path, record_on_start="true", compression="none", limits=little_room)
    try:
        assert bench.graph.until(lambda: "not recording" in bench.health(), 10.0), bench.health()
        bench.run(1.5)
        assert bench.graph.log("recorder").count("recording ended") == 1
        assert "already" not in bench.call("start").message
        assert bench.graph.end("recorder") == 0
    finally:
        bench.graph.close()
