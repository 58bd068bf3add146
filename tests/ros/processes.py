"""Real node processes for tests: started on their own domain, brought up through the lifecycle services, ended with a signal."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor

from internvla_a1.launcher.process import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
PROFILE = str(ROOT / "config" / "fastdds_localhost.xml")
DOMAINS = range(41, 50)
UP = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)


def _free_domain() -> tuple[Any, int]:
    """A domain id that no other run of these tests uses, and the lock that keeps it."""
    for domain in DOMAINS:
        lock = (Path(tempfile.gettempdir()) / f"internvla_a1_test_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, domain
        except BlockingIOError:
            lock.close()
    raise RuntimeError(f"all of the domains {DOMAINS} are in use by other tests")


class Graph:
    """A small ROS graph on a domain of its own: processes of this package and one node of the test."""

    def __init__(self, logs: Path) -> None:
        self._domain_lock, self.domain = _free_domain()
        domain, self._logs = self.domain, logs
        self._environment = {
            **os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT", "ROS_LOG_DIR": str(logs / "ros"),
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1",
            "FASTRTPS_DEFAULT_PROFILES_FILE": PROFILE,
        }
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
        os.environ["ROS_LOG_DIR"] = str(logs / "ros")
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = PROFILE
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("test", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: dict[str, Any] = {}

    def start(self, module: str, *, remaps: Iterable[str] = (), limits: Callable[[], None] | None = None,
              environment: dict[str, str] | None = None, **params: Any) -> str:  # fmt: skip
        """Start internvla_a1.nodes.<module>, or a script of this folder; its output goes to log(module). Returns the module's name."""
        script = ROOT / "tests" / "ros" / f"{module}.py"
        target = [str(script)] if script.exists() else ["-m", f"internvla_a1.nodes.{module}"]
        command = [sys.executable, *target, "--ros-args"]
        for name, value in params.items():
            command += ["-p", f"{name}:={value}"]
        for remap in remaps:
            command += ["-r", remap]
        ends_with_us = die_with_parent(os.getpid())  # a killed test leaves nothing that speaks to the next one

        def prepare() -> None:
            ends_with_us()
            if limits is not None:
                limits()

        with (self._logs / f"{module}.log").open("ab") as log:
            self.processes[module] = subprocess.Popen(
                command, cwd=ROOT, env={**self._environment, **(environment or {})}, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=prepare,
            )  # fmt: skip
        return module

    def log(self, module: str) -> str:
        """What the process has printed."""
        return (self._logs / f"{module}.log").read_text(errors="replace")

    def change(self, node: str, transition: int, timeout_s: float = 20.0) -> bool:
        """One lifecycle transition; whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, f"{node}/change_state", request, timeout_s).success)

    def up(self, *nodes: str) -> None:
        """Configure and activate."""
        for node in nodes:
            for transition in UP:
                assert self.change(node, transition), f"transition {transition} of {node} failed"

    def call(self, kind: type, name: str, request: Any, timeout_s: float = 20.0) -> Any:
        """A service call's response."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, name)
            assert self.until(client.service_is_ready, timeout_s), f"no service {name}"
            self.until(lambda: False, 0.1)  # the way back is matched a little later, and an answer before that is lost
        assert self.until(client.service_is_ready, timeout_s), f"no service {name}"
        future = client.call_async(request)
        assert self.until(future.done, timeout_s), f"no answer from {name}"
        return future.result()

    def until(self, done: Callable[[], Any], timeout_s: float = 10.0) -> bool:
        """Spin until `done` is true."""
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def collect(self, kind: type, topic: str, profile: Any) -> list[Any]:
        """A list that the messages of a topic are appended to."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, profile)
        return received

    def publisher(self, kind: type, topic: str, profile: Any) -> Any:
        return self.node.create_publisher(kind, topic, profile)

    def end(self, module: str, number: int = signal.SIGINT, timeout_s: float = 8.0) -> int:
        """Send a signal and wait; the exit status."""
        process = self.processes.pop(module)
        process.send_signal(number)
        return process.wait(timeout_s)

    def close(self) -> None:
        """End everything that is left."""
        for process in self.processes.values():
            process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.node.destroy_node()
        self._executor.shutdown()
        rclpy.shutdown(context=self._context)
        self._domain_lock.close()
