"""Listens to the stack from outside, like any other ROS node: score, latency, pictures, commanded and measured joints."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from internvla_a1_msgs.msg import ActionChunk, ExecutorStatus, HandoverState, Observation, SortingScore
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, String
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core.faults import Refusal
from internvla_a1.core.types import ImageArray
from internvla_a1.demo.bystander import MODES, Bystander
from internvla_a1.demo.latency import ClockMap, LatencyLog
from internvla_a1.ros import qos
from internvla_a1.ros.image_bridge import pixels

_SHEET_EVERY_S = 4.0


@dataclass
class Recording:
    """What was heard. Times are wall time in s, of joint rows simulated time in s; joint rows follow `joint_names`."""

    latency: LatencyLog = field(default_factory=LatencyLog)
    clock: ClockMap = field(default_factory=ClockMap)
    joint_names: tuple[str, ...] = ()
    commanded: list[tuple[float, list[float]]] = field(default_factory=list)
    measured: list[tuple[float, list[float]]] = field(default_factory=list)
    score: list[tuple[float, int, int, int]] = field(default_factory=list)  # time, correct, wrong, missed
    instructions: list[tuple[float, str]] = field(default_factory=list)
    modes: list[tuple[float, str, str]] = field(default_factory=list)  # time, mode, reason
    sheets: list[tuple[float, ImageArray]] = field(default_factory=list)  # now beside predicted
    counts: dict[str, int] = field(default_factory=dict)
    last_rejection: str = ""


class Collector(Bystander):
    """`on_overview(image, stamp_ns)` is called in the thread that spins; `recording` is read under `lock`.

    sheets: listen to foresight/image, which is drawn only for those who listen.
    """

    def __init__(
        self, domain: int, pace: float = 1.0, on_overview: Callable[[ImageArray, int], None] | None = None, sheets: bool = True
    ) -> None:
        super().__init__(domain, "demo_collector")
        self.recording = Recording(clock=ClockMap(pace))
        self.lock = threading.Lock()
        self._on_overview, self._sheets = on_overview, sheets
        self._seen: dict[str, int] = {}  # link: samples of its latency that news_ms() gave out
        self._wire()
        self.start()

    def _wire(self) -> None:
        node = self.node

        def listen(kind: type, topic: str, profile: Any, handle: Callable[[Any, int], None], raw: bool = False) -> None:
            def received(message: Any) -> None:
                now = time.time_ns()
                with self.lock:
                    self.recording.counts[topic] = self.recording.counts.get(topic, 0) + 1
                    handle(message, now)

            node.create_subscription(kind, topic, received, profile, raw=raw)

        listen(Clock, "/clock", qos.CLOCK, self._clock)
        listen(Observation, "perception/observation", qos.NEWEST, self._observation, raw=True)
        listen(ActionChunk, "policy/action_chunk", qos.DEFAULT, self._chunk)
        listen(JointTrajectory, "arm_controller/joint_trajectory", qos.DEFAULT, lambda m, t: None, raw=True)
        listen(ExecutorStatus, "executor/status", qos.DEFAULT, self._status)
        listen(HandoverState, "handover/state", qos.LATCHED, self._handover)
        listen(SortingScore, "cell/score", qos.LATCHED, self._score)
        listen(String, "instruction", qos.LATCHED, self._instruction)
        listen(JointState, "joint_states", qos.SENSOR, self._joints)
        if self._sheets:
            listen(Image, "foresight/image", qos.RELIABLE, self._sheet)
        if self._on_overview is not None:
            listen(Image, "overview/image_raw", qos.SENSOR, self._overview)
        self._belt = node.create_publisher(Float64, "cell/belt_speed", qos.RELIABLE)
        self._pace = node.create_client(SetParameters, "cell/set_parameters")

    def _clock(self, message: Clock, now: int) -> None:
        self.recording.clock.add(_ns(message.clock), now)

    def _observation(self, data: bytes, now: int) -> None:
        # Reading only the header spares this process the copy of three pictures 15 times a second.
        stamp = stamp_on_the_wire(data)
        taken = self.recording.clock.wall_ns(stamp)
        if taken is not None:
            self.recording.latency.observation(stamp, taken, now)

    def _chunk(self, message: ActionChunk, now: int) -> None:
        self.recording.latency.chunk(message.id, _ns(message.header.stamp), now, message.inference_time)

    def _status(self, message: ExecutorStatus, now: int) -> None:
        r = self.recording
        if message.commanded:
            r.joint_names = tuple(message.joint_names)
            r.commanded.append((_ns(message.header.stamp) / 1e9, list(message.commanded)))
        r.counts["chunks accepted"], r.counts["chunks rejected"] = message.chunks_accepted, message.chunks_rejected
        r.counts["limits applied"] = message.limits_applied
        r.last_rejection = message.last_rejection

    def _handover(self, message: HandoverState, now: int) -> None:
        # Sent in the tick whose segment is the first from a new chunk.
        if message.mode == HandoverState.POLICY:
            self.recording.latency.command(message.chunk_id, now)
        mode = MODES.get(message.mode, str(message.mode))
        if not self.recording.modes or self.recording.modes[-1][1:] != (mode, message.reason):
            self.recording.modes.append((now / 1e9, mode, message.reason))

    def _score(self, message: SortingScore, now: int) -> None:
        self.recording.score.append((now / 1e9, message.sorted_correct, message.sorted_wrong, message.missed))

    def _instruction(self, message: String, now: int) -> None:
        self.recording.instructions.append((now / 1e9, message.data))

    def _joints(self, message: JointState, now: int) -> None:
        r = self.recording
        if not r.joint_names:
            return
        where = {name: k for k, name in enumerate(message.name)}
        if all(name in where for name in r.joint_names):
            r.measured.append((_ns(message.header.stamp) / 1e9, [message.position[where[name]] for name in r.joint_names]))

    def _sheet(self, message: Image, now: int) -> None:
        sheets = self.recording.sheets
        if sheets and now / 1e9 - sheets[-1][0] < _SHEET_EVERY_S:
            return
        image = pixels(message)
        if not isinstance(image, Refusal):
            sheets.append((now / 1e9, np.array(image)))

    def _overview(self, message: Image, now: int) -> None:
        image = pixels(message)
        if self._on_overview is not None and not isinstance(image, Refusal):
            self._on_overview(np.array(image), _ns(message.header.stamp))

    @property
    def mode(self) -> tuple[str, str]:
        """Handover mode and its reason; empty while the executor has not spoken."""
        with self.lock:
            return self.recording.modes[-1][1:] if self.recording.modes else ("", "")

    def set_belt_speed(self, speed: float) -> None:
        self._belt.publish(Float64(data=speed))

    def set_pace(self, factor: float, limit_s: float = 5.0) -> str:
        """Let the cell's clock run at `factor` of real time; '' when it does, else why not."""
        value = Parameter("real_time_factor", value=float(factor)).to_parameter_msg()
        answer = self.ask(self._pace, SetParameters.Request(parameters=[value]), limit_s)
        if answer is None:
            return "the cell does not answer"
        if answer.results[0].successful:
            with self.lock:
                self.recording.clock.pace = factor
        return "" if answer.results[0].successful else str(answer.results[0].reason)

    def forget_latency(self) -> None:
        """Begin the samples of latency again."""
        with self.lock:
            self.recording.latency = LatencyLog()
            self._seen.clear()

    def news_ms(self) -> dict[str, list[float]]:
        """The samples of latency since the last call, by link."""
        with self.lock:
            samples = self.recording.latency.samples
            news = {link: values[self._seen.get(link, 0) :] for link, values in samples.items()}
            self._seen.update({link: len(values) for link, values in samples.items()})
        return news


def stamp_on_the_wire(data: bytes) -> int:
    """The stamp of a message on the wire whose first field is a Header: 4 bytes of encapsulation, then sec and nanosec."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(sec) * 10**9 + int(nanosec)


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
