"""Records episodes: what was seen, wanted, foreseen and done, with interventions marked.

`recorder/start` and `recorder/stop` (std_srvs/Trigger) answer with the folder of the episode. The node only listens: neither
a slow nor a full disk can reach the arm.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvla_a1_msgs.msg import HandoverState
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from internvla_a1.core.errors import ConfigError
from internvla_a1.ros import diagnostics
from internvla_a1.ros.lifecycle import PlainNode
from internvla_a1.ros.params import flag, integer, text, texts
from internvla_a1.ros.recording import COMPRESSIONS, Channel, EpisodeWriter
from internvla_a1.ros.recording_schema import definition, message_class
from internvla_a1.ros.recording_thread import EpisodeThread
from internvla_a1.ros.recording_topics import TOPICS, Topic, extra_topic
from internvla_a1.ros.run import run_node

CLOSE_LIMIT_S = 1.5  # of the 2 s that a node has to end
STATIC_FRAMES = 16  # /tf_static has several publishers, each with its own frames


@dataclass(frozen=True)
class RecorderParams:
    folder: str = text("outputs/episodes", "Where episodes go, one folder each", required=True)
    record_on_start: bool = flag(False, "Begin an episode when the node starts")
    topics: tuple[str, ...] = texts(tuple(TOPICS), "Topics of the stack to record", choices=tuple(TOPICS))
    extra_topics: tuple[str, ...] = texts((), "More topics, each as 'name package/msg/Type' or 'name package/msg/Type best_effort'")
    compression: str = text("zstd", "Compression of the MCAP chunks", choices=COMPRESSIONS)
    queue_mb: int = integer(64, "MB", 1, 4096, "Messages held in memory when the disk is slow; more are dropped and counted")
    min_free_mb: int = integer(200, "MB", 0, 1_000_000, "Recording ends in order when the disk has less than this left")


class RecorderNode(PlainNode):
    """Thin: subscriptions feed the episode's thread."""

    def __init__(self, **kwargs: Any) -> None:
        self._episode: EpisodeThread | None = None
        self._failure = ""
        self._latched: dict[str, deque[bytes]] = {}
        super().__init__("recorder", RecorderParams, **kwargs)
        self._params: RecorderParams = self.parameters.load()
        wanted = [TOPICS[name] for name in self._params.topics] + [extra_topic(text) for text in self._params.extra_topics if text]
        self._channels = [self._listen(topic) for topic in wanted]
        self._mode_topic = self.resolve_topic_name("handover/state")
        self._instruction_topic = self.resolve_topic_name("instruction")
        self.service(Trigger, "recorder/start", self._on_start)
        self.service(Trigger, "recorder/stop", self._on_stop)
        if self._params.record_on_start:
            self.get_logger().info(f"recording to {self._begin()}")

    def health(self) -> diagnostics.Health:
        episode = self._episode
        if self._failure:
            return diagnostics.ERROR, f"not recording: {self._failure}"
        if episode is None:
            return diagnostics.OK, "idle"
        self.diagnostics.set("dropped", episode.dropped)
        return (diagnostics.WARN if episode.dropped else diagnostics.OK), f"recording, {episode.dropped} messages dropped"

    def stop(self) -> None:
        if self._episode is not None:
            self._end(self._episode)

    def _listen(self, topic: Topic) -> Channel:
        kind = message_class(topic.type_name)
        name = self.resolve_topic_name(topic.name)
        if topic.latched:
            self._latched[name] = deque(maxlen=STATIC_FRAMES if topic.name == "/tf_static" else 1)
        self.subscription(kind, topic.name, lambda data: self._take(name, data), topic.profile, raw=True)
        return Channel(name, topic.type_name, definition(topic.type_name), topic.reliable, topic.latched)

    def _take(self, topic: str, data: bytes) -> None:
        """One message as it came off the wire; latched ones are kept, so that an episode begins with the state it began in."""
        if topic in self._latched:
            self._latched[topic].append(data)
        if self._episode is not None:
            self._write(self._episode, topic, data, self.now().stamp_ns)

    def _write(self, episode: EpisodeThread, topic: str, data: bytes, stamp: int) -> None:
        episode.offer(len(data), lambda writer: writer.write(topic, data, stamp))
        if topic == self._mode_topic:
            teleop = deserialize_message(data, HandoverState).mode == HandoverState.TELEOP
            episode.offer(0, lambda writer: writer.interventions.update(teleop, stamp))
        elif topic == self._instruction_topic:
            words = deserialize_message(data, String).data
            episode.offer(0, lambda writer: writer.instructions.append((stamp, words)))

    def _on_start(self, request: Any, response: Any) -> Any:
        if self._episode is not None and not self._episode.failure:
            response.success, response.message = False, "already recording; stop it first"
            return response
        try:
            response.success, response.message = True, str(self._begin())
        except (OSError, ConfigError) as error:
            response.success, response.message = False, f"cannot record: {error}"
        return response

    def _on_stop(self, request: Any, response: Any) -> Any:
        if self._episode is None:
            response.success, response.message = False, "not recording"
        else:
            response.success, response.message = self._end(self._episode)
        return response

    def _begin(self) -> Path:
        p = self._params
        writer = EpisodeWriter(
            Path(p.folder).expanduser(), time.strftime("episode_%Y%m%d_%H%M%S"), self._channels, self.now().stamp_ns, p.compression
        )
        self._failure = ""
        episode = EpisodeThread(writer, p.queue_mb * 1_000_000, p.min_free_mb * 1_000_000, self._on_failure)
        for topic, kept in self._latched.items():
            for data in kept:
                self._write(episode, topic, data, self.now().stamp_ns)
        self._episode = episode
        return episode.folder

    def _end(self, episode: EpisodeThread) -> tuple[bool, str]:
        self._episode = None
        if not episode.close(CLOSE_LIMIT_S):
            return False, "the disk is slow: the episode is still being written"
        if episode.failure:
            return False, episode.failure
        return True, str(episode.folder)

    def _on_failure(self, why: str) -> None:
        self._failure = why
        self.get_logger().error(f"recording ended: {why}; the arm is not concerned")


def main(args: list[str] | None = None) -> int:
    return run_node(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
