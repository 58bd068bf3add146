"""What plain and lifecycle nodes of this package share: guarded callbacks, tracked entities, parameters, diagnostics.

A callback that raises is logged with its traceback and counted; it does not end the process. Incompatible quality of service
is silent across processes, so its event is always watched, logged and counted.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.exceptions import InvalidHandle
from rclpy.qos import QoSProfile, qos_policy_name_from_kind

from internvla_a1.core.clock import Now
from internvla_a1.core.errors import InternVLAError
from internvla_a1.ros import qos
from internvla_a1.ros.diagnostics import OK, Diagnostics, Health
from internvla_a1.ros.heartbeat import Heartbeat
from internvla_a1.ros.params import Parameters
from internvla_a1.ros.time import NodeClock


class Wiring:
    """Mixin for an rclpy Node. `wire_up` is called once by the base classes in lifecycle.py."""

    parameters: Parameters
    diagnostics: Diagnostics

    def wire_up(self, params_type: type) -> None:
        """Declare the parameters and start diagnostics and heartbeat."""
        self._entities: list[tuple[str, Any]] = []
        self._actions: list[ActionClient] = []
        self._clock_reader = NodeClock(self)  # type: ignore[arg-type]
        self.parameters = Parameters(self, params_type)  # type: ignore[arg-type]
        self.diagnostics = Diagnostics(self, self.health)  # type: ignore[arg-type]
        self.heartbeat = Heartbeat(self, self.state_label)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Called once, before the node spins."""

    def now(self) -> Now:
        """This instant, steady and by the node's clock."""
        return self._clock_reader.now()

    def health(self) -> Health:
        """(level, message) for /diagnostics; override it."""
        return OK, self.state_label()

    def state_label(self) -> str:
        """What the heartbeat says."""
        return "active"

    def listening(self) -> bool:
        """Whether inputs are let through; lifecycle nodes close the gate while inactive."""
        return True

    def publisher(self, kind: type, topic: str, profile: QoSProfile = qos.RELIABLE) -> Any:
        """A publisher that lives until cleanup."""
        events = PublisherEventCallbacks(incompatible_qos=lambda e: self._incompatible(topic, e), use_default_callbacks=False)
        return self._keep("publisher", _with_events(self.create_publisher, kind, topic, profile, event_callbacks=events))  # type: ignore[attr-defined]

    def subscription(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        profile: QoSProfile = qos.RELIABLE,
        always: bool = False,
        group: CallbackGroup | None = None,
        raw: bool = False,
    ) -> Any:
        """A guarded subscription that lives until cleanup.

        `always` hears messages while the node is inactive too; `raw` gives the callback the bytes of the wire (CDR).
        """
        events = SubscriptionEventCallbacks(incompatible_qos=lambda e: self._incompatible(topic, e), use_default_callbacks=False)
        guarded = self.guarded(f"topic {topic}", callback)

        def gate(message: Any) -> None:
            if always or self.listening():
                guarded(message)

        return self._keep(
            "subscription",
            _with_events(
                self.create_subscription,  # type: ignore[attr-defined]
                kind, topic, gate, profile, event_callbacks=events, callback_group=group, raw=raw,
            ),
        )

    def timer(self, period_s: float, callback: Callable[[], None], steady: bool = True, group: CallbackGroup | None = None) -> Any:
        """A guarded timer that lives until cleanup; steady by default, so that a stopped /clock does not stop it."""
        clock = Clock(clock_type=ClockType.STEADY_TIME) if steady else self.get_clock()  # type: ignore[attr-defined]
        return self._keep(
            "timer",
            self.create_timer(period_s, self.guarded("timer", callback), clock=clock, callback_group=group),  # type: ignore[attr-defined]
        )

    def service(self, kind: type, name: str, answer: Callable[[Any, Any], Any], group: CallbackGroup | None = None) -> Any:
        """A service that lives until cleanup. An exception in `answer` fills success=False and message where they exist."""

        def guarded(request: Any, response: Any) -> Any:
            try:
                return answer(request, response)
            except Exception as error:
                if isinstance(error, InternVLAError):
                    self.diagnostics.refuse(f"service {name}", str(error))
                else:
                    self._log_exception(f"service {name}", error)
                if hasattr(response, "success"):
                    response.success, response.message = False, str(error)
                return response

        return self._keep("service", self.create_service(kind, name, guarded, callback_group=group))  # type: ignore[attr-defined]

    def client(self, kind: type, name: str) -> Any:
        """A service client that lives until cleanup; only call_async, a waiting call in a callback never returns."""
        return self._keep("client", self.create_client(kind, name))  # type: ignore[attr-defined]

    def action_client(self, kind: type, name: str) -> Any:
        """An action client that lives until cleanup."""
        client = ActionClient(self, kind, name)  # type: ignore[arg-type]
        self._actions.append(client)
        return client

    def guarded(self, what: str, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback, with exceptions logged and counted."""

        def run(*args: Any) -> None:
            try:
                callback(*args)
            except InternVLAError as error:
                self.diagnostics.refuse(what, str(error))
            except Exception as error:
                self._log_exception(what, error)

        return run

    def forget_entities(self) -> None:
        """Destroy what publisher(), subscription(), timer() and service() made."""
        for kind, entity in reversed(self._entities):
            with contextlib.suppress(InvalidHandle):  # the context went first
                getattr(self, f"destroy_{kind}")(entity)
        self._entities.clear()
        for client in self._actions:
            client.destroy()
        self._actions.clear()

    def stop(self) -> None:
        """Last words before the node is destroyed; override it."""

    def _keep(self, kind: str, entity: Any) -> Any:
        self._entities.append((kind, entity))
        return entity

    def _incompatible(self, topic: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.diagnostics.count("incompatible_qos")
        self.diagnostics.set(f"incompatible_qos/{topic}", policy)
        self.get_logger().error(f"topic {topic}: a peer's quality of service does not fit ({policy}); no messages will pass")  # type: ignore[attr-defined]

    def _log_exception(self, what: str, error: Exception) -> None:
        self.diagnostics.count("internal_error")
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.diagnostics.warn_throttled(f"exception/{what}", f"{what}: {trace}")


def _with_events(create: Callable[..., Any], *args: Any, event_callbacks: Any, **kwargs: Any) -> Any:
    try:
        return create(*args, event_callbacks=event_callbacks, **kwargs)
    except UnsupportedEventTypeError:  # some middlewares have no such event
        return create(*args, **kwargs)
