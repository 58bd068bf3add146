"""A ROS node beside the stack and not one of it: its own context, the thread that spins it, and what a person may ask the executor."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import KeyValue
from internvla_a1_msgs.msg import HandoverState
from internvla_a1_msgs.srv import SetMode
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from internvla_a1.launcher.commands import apply_defaults
from internvla_a1.ros import qos
from internvla_a1.ros.heartbeat import TOPIC as HEARTBEAT
from internvla_a1.ros.heartbeat import read_beat
from internvla_a1.ros.run import make_executor

MODES = {getattr(HandoverState, name): name.lower() for name in ("HOLD", "TELEOP", "POLICY", "FAULT", "ESTOP")}


class Bystander:
    """A subclass makes its subscriptions on `node` and then calls `start`. Callbacks run in one thread of its own.

    states: node to lifecycle state; pids: node to process; both from the heartbeats.
    """

    def __init__(self, domain: int, name: str) -> None:
        self.states: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        apply_defaults(os.environ)
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, context=self._context)
        self.node.create_subscription(KeyValue, HEARTBEAT, self._on_beat, qos.DEFAULT)
        self._mode = self.node.create_client(SetMode, "handover/set_mode")
        self._clear = self.node.create_client(Trigger, "executor/clear_fault")
        self._stopping = False
        self._executor = make_executor(self._context)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def start(self) -> int:
        """Hear from now on. The number of the thread that does, for the operating system."""
        self._executor.add_node(self.node)
        self._thread.start()
        return self._thread.native_id or 0

    def _spin(self) -> None:
        while not self._stopping and self._context.ok():
            self._executor.spin_once(timeout_sec=0.2)

    def _on_beat(self, message: KeyValue) -> None:
        beat = read_beat(message)
        if beat is not None:
            name = beat.node.rpartition("/")[2]
            # The state first: a new process is never seen with the state of the one before it.
            self.states[name], self.pids[name] = beat.state, beat.pid

    def request_mode(self, mode: str, limit_s: float = 5.0) -> str:
        """Ask the executor for a mode; '' when it was granted, else why not."""
        return self._granted(self._mode, SetMode.Request(mode=mode), limit_s)

    def clear_fault(self, limit_s: float = 5.0) -> str:
        """Clear a latched fault, as a person beside the arm would; '' when it is cleared, else why not."""
        return self._granted(self._clear, Trigger.Request(), limit_s)

    def _granted(self, client: Any, request: Any, limit_s: float) -> str:
        answer = self.ask(client, request, limit_s)
        if answer is None:
            return "the executor does not answer"
        return "" if answer.success else str(answer.message)

    def ask(self, client: Any, request: Any, limit_s: float) -> Any:
        """What a service answers; None where it does not within the limit. Not for the thread that spins."""
        end = time.monotonic() + limit_s
        if not self.until(client.service_is_ready, limit_s):
            return None
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(max(end - time.monotonic(), 0.05)):
            client.remove_pending_request(future)
            return None
        return future.result()

    @staticmethod
    def until(done: Callable[[], Any], limit_s: float, every_s: float = 0.005) -> bool:
        """Wait until `done` is true; False where it is not within the limit."""
        end = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(every_s)
        return True

    def close(self) -> None:
        """Stop listening. What was heard stays."""
        self._stopping = True
        self._thread.join(2.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
