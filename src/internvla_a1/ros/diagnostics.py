"""What a node says of itself on /diagnostics once a second: a level, counters, and the last refusal by name."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from internvla_a1.core.faults import Refusal
from internvla_a1.core.memory import heap_in_use_mb
from internvla_a1.ros import qos

OK = 0
WARN = 1
ERROR = 2
_LOG_EVERY_S = 1.0

Health = tuple[int, str]


class Diagnostics:
    """Counters and health of one node; hardware id = node name.

    The timer is steady, so a stopped /clock does not silence it. `health` gives (level, message) at each publication.
    """

    def __init__(self, node: Node, health: Callable[[], Health] | None = None) -> None:
        self._node = node
        self._health = health
        self._values: dict[str, str] = {}
        self._logged: dict[str, float] = {}
        self.counters: Counter[str] = Counter()
        self.last_refusal = ""
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        self.counters[name] += by

    def set(self, name: str, value: object) -> None:
        """Show a value under a name until it is replaced."""
        self._values[name] = f"{value:.6g}" if isinstance(value, float) else str(value)

    def update(self, values: Mapping[str, object]) -> None:
        """`set` for many."""
        for name, value in values.items():
            self.set(name, value)

    def refuse(self, what: str, refusal: Refusal | str) -> None:
        """Count a refused message, remember it, and log it at most once a second per kind ("KIND: text" in a string)."""
        kind = refusal.reason.value if isinstance(refusal, Refusal) else refusal.partition(":")[0]
        reason = kind.lower() if kind.isidentifier() else "refused"
        self.counters[f"refused/{reason}"] += 1
        self.last_refusal = f"{what}: {refusal}"
        self.warn_throttled(f"{what}/{reason}", f"{what} refused: {refusal}")

    def warn_throttled(self, key: str, message: str, every_s: float = _LOG_EVERY_S) -> None:
        """Warn at most once per `every_s` of steady time under the same key."""
        now = time.monotonic()
        if now - self._logged.get(key, float("-inf")) >= every_s:
            self._logged[key] = now
            self._node.get_logger().warning(message)

    def publish(self) -> None:
        """Publish the present state; called by the timer."""
        level, message = self._health() if self._health else (OK, "ok")
        heap = heap_in_use_mb()
        if heap is not None:
            self.set("heap_mb", heap)
        values = {**self._values, **{k: str(v) for k, v in sorted(self.counters.items())}}
        if self.last_refusal:
            values["last_refusal"] = self.last_refusal
        status = DiagnosticStatus(
            level=bytes([level]),
            name=self._node.get_fully_qualified_name().lstrip("/"),
            message=message,
            hardware_id=self._node.get_name(),
            values=[KeyValue(key=k, value=v) for k, v in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
