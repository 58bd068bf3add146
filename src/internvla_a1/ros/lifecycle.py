"""Base classes of the nodes. `ManagedNode` guards two defects of rclpy's lifecycle node (Jazzy 7.1):

a ChangeState request that is not valid in the present state raises out of spin(), and an exception in a transition callback
vanishes without a log.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lifecycle_msgs.msg import State
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from internvla_a1.core.errors import InternVLAError
from internvla_a1.core.memory import SPARE_MB, settle
from internvla_a1.ros import diagnostics
from internvla_a1.ros.wiring import Wiring

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


class PlainNode(Wiring, Node):
    """A node without lifecycle; a ConfigError from its parameters ends the process with one line."""

    def __init__(self, name: str, params_type: type, **kwargs: Any) -> None:
        Node.__init__(self, name, **kwargs)
        self.wire_up(params_type)


class ManagedNode(Wiring, LifecycleNode):
    """A lifecycle node. Override configure(params), activate(), deactivate(), cleanup(); raise to refuse.

    configure: make everything with publisher(), subscription(), timer(), service(); raise InternVLAError to stay unconfigured.
    Subscriptions are deaf while the node is inactive (unless made with always=True); timers run from configure on.
    """

    SPARE_MB: ClassVar[int] = SPARE_MB  # heap made ready before the node is active; more for nodes that take pictures

    def __init__(self, name: str, params_type: type, **kwargs: Any) -> None:
        self._active = False
        LifecycleNode.__init__(self, name, **kwargs)
        self.wire_up(params_type)

    def begin(self) -> None:
        """Before the first spin: a node whose parameter `autostart` is set configures and activates itself, heard of or not.

        One that refuses stays where it is; a lifecycle manager may try again.
        """
        if self.has_parameter("autostart") and self.get_parameter("autostart").value is True and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def configure(self, params: Any) -> None:
        """Build from the checked parameters."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working, keep everything."""

    def cleanup(self) -> None:
        """Let go of what configure() made; entities are destroyed afterwards."""

    @property
    def active(self) -> bool:
        """Whether the node is in the state ACTIVE."""
        return self._active

    def listening(self) -> bool:
        return self._active

    def state_label(self) -> str:
        return str(self._state_machine.current_state[1])

    def health(self) -> diagnostics.Health:
        return (diagnostics.OK if self._active else diagnostics.WARN), self.state_label()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.configure(self.parameters.load())
        except Exception as error:
            self._report("configure", error)
            self._clear()
            return FAILURE
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.activate()
            settle(self.SPARE_MB)
        except Exception as error:
            self._report("activate", error)
            return FAILURE
        self._active = True
        return LifecycleNode.on_activate(self, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        try:
            self.deactivate()
        except Exception as error:
            self._report("deactivate", error)
        return LifecycleNode.on_deactivate(self, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._clear()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        self._clear()
        return SUCCESS

    def stop(self) -> None:
        """Deactivate and clean up, whatever the state; called when the process ends."""
        if self._active:
            self._active = False
            try:
                self.deactivate()
            except Exception as error:
                self._report("deactivate", error)
        self._clear()

    def _clear(self) -> None:
        try:
            self.cleanup()
        except Exception as error:
            self._report("cleanup", error)
        self.forget_entities()
        self.parameters.unlock()

    def _report(self, step: str, error: Exception) -> None:
        self.diagnostics.set("last_error", f"{step}: {error}")
        if isinstance(error, InternVLAError):
            self.get_logger().error(f"{step} refused: {error}")
        else:
            self._log_exception(step, error)

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:
        possible = [t[0] for t in self._state_machine.available_transitions]
        if transition_id not in possible:
            here = self.state_label()
            self.get_logger().warning(f"lifecycle transition {transition_id} refused: not possible while {here} (possible: {possible})")
            return FAILURE
        result = LifecycleNode._LifecycleNodeMixin__change_state(self, transition_id)  # type: ignore[attr-defined]
        self.heartbeat.beat()
        if self._state_machine.current_state[0] == State.PRIMARY_STATE_FINALIZED:
            self.get_logger().info("finalized")
        return result
