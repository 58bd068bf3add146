"""lifecycle_manager: brings the lifecycle nodes up in order, hears their hearts, brings a restarted one back or all down.

Processes are respawned by whoever launched them; this node configures and activates what reappears. An executor that comes
back is in HOLD: motion never restarts by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import KeyValue
from internvla_a1_msgs.srv import SetMode
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger

from internvla_a1.ros import diagnostics, heartbeat, qos
from internvla_a1.ros.bringup import Action, Bringup, BringupConfig, Step, resolve
from internvla_a1.ros.lifecycle import PlainNode
from internvla_a1.ros.params import flag, integer, number, text, texts
from internvla_a1.ros.run import run_node

_TICK_S = 0.1
_ASKS = 30
_TRANSITIONS = {
    Step.CONFIGURE: Transition.TRANSITION_CONFIGURE,
    Step.ACTIVATE: Transition.TRANSITION_ACTIVATE,
    Step.DEACTIVATE: Transition.TRANSITION_DEACTIVATE,
    Step.CLEANUP: Transition.TRANSITION_CLEANUP,
}


@dataclass(frozen=True)
class ManagerParams:
    nodes: tuple[str, ...] = texts(("executor", "perception", "policy", "foresight"), "Lifecycle nodes in the order of their start")
    autostart: bool = flag(True, "Bring the nodes up at once; else on lifecycle_manager/bring_up")
    heartbeat_timeout: float = number(1.0, "s", 0.5, 30.0, "Silence after which a node counts as lost (nodes beat at 5 Hz)")
    transition_timeout: float = number(120.0, "s", 1.0, 3600.0, "Longest transition; loading a large model takes its time")
    retry_delay: float = number(2.0, "s", 0.1, 60.0, "Pause before a node that refused twice is tried again")
    appear_timeout: float = number(10.0, "s", 0.0, 600.0, "How long the first start waits for a node before it goes on without")
    max_failures: int = integer(5, "", 0, 1000, "More refusals or crashes of one node within failure_window, and it is given up")
    failure_window: float = number(60.0, "s", 1.0, 3600.0, "See max_failures")
    on_failure: str = text("continue", "When a node is given up: the others continue, or all go down", choices=("continue", "bring_down"))
    kill_silent: float = number(5.0, "s", 0.0, 60.0, "Silence after which a node's process on this machine is killed; 0: never")
    rearm_after_start: bool = flag(False, "Ask the executor for policy mode once, after the very first complete start")


def bringup_config(nodes: tuple[str, ...], p: ManagerParams) -> BringupConfig:
    """What the parameters ask of Bringup. nodes: resolved names."""
    return BringupConfig(
        nodes,
        heartbeat_s=p.heartbeat_timeout,
        transition_s=p.transition_timeout,
        retry_s=p.retry_delay,
        appear_s=p.appear_timeout,
        max_failures=p.max_failures,
        window_s=p.failure_window,
        kill_silent_s=p.kill_silent,
        bring_down=p.on_failure == "bring_down",
    )


class LifecycleManager(PlainNode):
    """Wires of Bringup."""

    def __init__(self) -> None:
        super().__init__("lifecycle_manager", ManagerParams)
        p: ManagerParams = self.parameters.load()
        names = resolve(p.nodes, self.get_namespace())
        self.bringup = Bringup(bringup_config(names, p))
        self.bringup.wanted_up = p.autostart
        self._asks_left = _ASKS if p.rearm_after_start else 0
        self._next_ask_s = 0.0
        self._clients_of = {name: self.client(ChangeState, f"{name}/change_state") for name in names}
        self._mode = self.client(SetMode, "handover/set_mode")
        self.subscription(KeyValue, heartbeat.TOPIC, self._on_beat, qos.DEFAULT)
        self.service(Trigger, "lifecycle_manager/bring_up", lambda q, r: self._asked(True, r))
        self.service(Trigger, "lifecycle_manager/bring_down", lambda q, r: self._asked(False, r))
        self.timer(_TICK_S, self._tick)

    def _on_beat(self, message: KeyValue) -> None:
        beat = heartbeat.read_beat(message)
        if beat is not None:
            self.bringup.on_beat(beat, time.monotonic())

    def _asked(self, up: bool, response: Trigger.Response) -> Trigger.Response:
        self.bringup.ask(up)
        response.success, response.message = True, "bringing up" if up else "bringing down"
        return response

    def _tick(self) -> None:
        for action in self.bringup.tick(time.monotonic()):
            self._do(action)
        for problem, note in self.bringup.take_notes():
            if problem:  # rclpy ties a severity to a line of code
                self.get_logger().error(note)
                self.diagnostics.count("problems")
            else:
                self.get_logger().info(note)
        self.diagnostics.update({name: self.bringup.state(name) for name in self.bringup.config.nodes})
        if self._asks_left and self.bringup.complete:
            self._arm()

    def _do(self, action: Action) -> None:
        if action.step is Step.KILL:
            self._kill(action)
            return
        client = self._clients_of[action.node]
        if not client.service_is_ready():
            self.bringup.postpone(action.node)
            return
        request = ChangeState.Request()
        request.transition.id = _TRANSITIONS[action.step]
        future = client.call_async(request)

        def answered(done: object) -> None:
            answer = future.result()
            done_so = answer is not None and answer.success
            if done_so:
                self.get_logger().info(f"{action.node}: {action.step.value} done")
            self.bringup.on_answer(action.node, action.step, done_so, time.monotonic())

        future.add_done_callback(answered)

    def _kill(self, action: Action) -> None:
        """End a process that hangs, so that it is respawned. Only where it is one of ours on this machine."""
        try:
            line = Path(f"/proc/{action.pid}/cmdline").read_bytes()
            ours = b"internvla_a1" in line or b"--ros-args" in line
        except OSError:
            return  # it is gone, or on another machine
        if ours and action.pid != os.getpid():
            self.get_logger().error(f"{action.node} hangs: process {action.pid} is killed")
            os.kill(action.pid, signal.SIGKILL)

    def _arm(self) -> None:
        """Ask for policy mode until it is granted once; joint states may still be on their way."""
        now_s = time.monotonic()
        if now_s < self._next_ask_s or not self._mode.service_is_ready():
            return
        self._next_ask_s, self._asks_left = now_s + 1.0, self._asks_left - 1
        future = self._mode.call_async(SetMode.Request(mode="policy"))

        def answered(done: object) -> None:
            answer = future.result()
            if answer is not None and answer.success:
                self._asks_left = 0
            elif not self._asks_left:
                self.get_logger().error(f"policy mode was refused: {answer.message if answer else 'no answer'}")

        future.add_done_callback(answered)

    def health(self) -> diagnostics.Health:
        bringup = getattr(self, "bringup", None)
        if bringup is None or not bringup.complete:
            return diagnostics.WARN, "not all nodes are active"
        return diagnostics.OK, "all nodes are active"


def main() -> int:
    return run_node(LifecycleManager)


if __name__ == "__main__":
    sys.exit(main())
