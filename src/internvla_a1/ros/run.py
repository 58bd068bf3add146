"""main() of every node: spin, and on Ctrl-C or SIGTERM stop in order and exit 0 within two seconds."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from internvla_a1.core.errors import InternVLAError
from internvla_a1.core.memory import settle, steady_heap, tidy

LIMIT_S = 1.8
_DEAF_S = 1.9  # by then not even the watcher came to act
_CONFIG_EXIT = 2
_SPIN_S = 1.0  # EventsExecutor of rclpy 7.1 dispatches nothing when it waits without a limit


def run_node(make: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """Build the node with make(), spin it until a signal, tear it down. Returns the exit status.

    0 after a signal, 1 after an unexpected error, 2 when the configuration is refused. The context stays valid until the
    node's stop() has run, so that it can still publish.
    """
    steady_heap()
    rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    stopping = Future()
    with _Signals(stopping):
        node, status = None, 0
        try:
            node = make()
            executor = make_executor()
            executor.add_node(node)
            node.begin()
            settle()
            while not stopping.done():
                executor.spin_until_future_complete(stopping, timeout_sec=_SPIN_S)
                tidy()
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except InternVLAError as error:
            print(f"{getattr(make, '__name__', 'node')}: {error}", file=sys.stderr, flush=True)
            status = _CONFIG_EXIT
        except Exception:
            traceback.print_exc()
            status = 1
        _tear_down(node)
    return status


def make_executor(context: Any = None) -> Any:
    """rclpy's EventsExecutor, three to four times cheaper where it exists (Jazzy on); else the single-threaded one.

    context: None is the default one.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def _tear_down(node: Any) -> None:
    steps: list[Callable[[], Any]] = [rclpy.try_shutdown]
    if node is not None:
        steps = [node.stop, node.destroy_node, rclpy.try_shutdown]
    for step in steps:
        try:
            step()
        except (Exception, KeyboardInterrupt):  # a second Ctrl-C must not break the order
            traceback.print_exc()


class _Signals:
    """SIGINT and SIGTERM complete `stopping`; repeated ones change nothing; the process ends within LIMIT_S in any case.

    The wake-up descriptor is written at once by the C handler, so the watcher thread hears the signal even while the main
    thread waits inside the middleware.
    """

    def __init__(self, stopping: Future) -> None:
        self._stopping = stopping
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._done = threading.Event()

    def __enter__(self) -> _Signals:
        self._old = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        signal.set_wakeup_fd(self._old_fd)
        os.write(self._write, b"\0")
        for number, handler in self._old.items():
            signal.signal(number, handler if self._stopping.done() is False else signal.SIG_IGN)

    def _watch(self) -> None:
        os.read(self._read, 1)
        if self._done.is_set():
            return
        faulthandler.dump_traceback_later(_DEAF_S, exit=True)
        self._stopping.set_result(True)
        if not self._done.wait(LIMIT_S):
            print("stopping took too long; leaving now", file=sys.stderr, flush=True)
            os._exit(0)
