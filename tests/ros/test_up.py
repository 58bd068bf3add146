"""`internvla-a1 up` with two small real nodes: what is started is named, comes back, and leaves nothing when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ros

SOURCE = Path(__file__).parents[2] / "src"
NOTED_S = 1.5  # the runner notes the shared memory of its nodes once a second
NODE = f"""#!{sys.executable}
import subprocess, sys, rclpy
from rclpy.executors import ExternalShutdownException
from std_msgs.msg import String
rclpy.init(args=sys.argv)
node = rclpy.create_node("talker")
node.declare_parameter("text", "-")
subprocess.Popen(["sleep", "600.25"])
publisher = node.create_publisher(String, "chatter", 1)
print("ready", node.get_fully_qualified_name(), node.get_parameter("text").value, flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""
STUBBORN = f"""#!{sys.executable}
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready and deaf", flush=True)
time.sleep(600)
"""
LAUNCH = """\
launch:
- arg: {name: text, default: hello there}
- group:
  - push_ros_namespace: {namespace: line1}
  - node: {pkg: tiny, exec: talker, name: a, output: screen, respawn: "true", respawn_delay: 0.2, param: [{name: text, value: $(var text)}]}
- node: {pkg: tiny, exec: stubborn, output: screen}
"""


class Up:
    """A running `internvla-a1 up` and what it has printed."""

    def __init__(self, folder: Path, domain: str) -> None:
        scripts = folder / "lib" / "tiny"
        scripts.mkdir(parents=True)
        for name, text in (("talker", NODE), ("stubborn", STUBBORN)):
            (scripts / name).write_text(text)
            (scripts / name).chmod(0o755)
        (folder / "t.launch.yaml").write_text(LAUNCH)
        self.log = folder / "out.txt"
        env = {**os.environ, "PYTHONPATH": f"{SOURCE}:{os.environ.get('PYTHONPATH', '')}", "ROS_DOMAIN_ID": domain, "TMPDIR": str(folder)}
        env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"  # with shared memory, which a killed node leaves behind
        env["AMENT_PREFIX_PATH"] = f"{folder}:{os.environ.get('AMENT_PREFIX_PATH', '')}"
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "internvla_a1.cli", "up", str(folder / "t.launch.yaml"), "text:=two words"],
            env=env, stdout=self.log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, pattern: str, count: int = 1) -> None:
        until(lambda: len(re.findall(pattern, self.log.read_text())) >= count, f"{pattern!r} {count} times in: {self.log}")

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(0.05)


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "fastrtps" in name or "fastdds" in name}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path, "97")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def kill_talker(up: Up) -> None:
    (talker,) = [p for p in up.descendants() if "__node:=a" in p.cmdline()]
    talker.kill()


def assert_nothing_left(up: Up, processes: list[psutil.Process], files: set[str]) -> None:
    until(lambda: not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], "all processes gone", 4.0)
    until(lambda: not files & shared_memory(), "shared memory of the nodes gone", 4.0)
    until(lambda: not list(up.folder.glob("internvla_a1_up_*")), "scratch folder gone", 4.0)


def talker_files(up: Up) -> set[str]:
    """Shared-memory segments that the nodes have mapped at this moment; ports may be shared with other ROS processes."""
    found: set[str] = set()
    for process in up.descendants():
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        found |= set(re.findall(r"/dev/shm/(fastrtps_(?!port)\w+)", maps))
    return found


def test_a_killed_node_comes_back_and_ctrl_c_leaves_nothing_within_three_seconds(up: Up) -> None:
    up.wait_for(r"\[line1/a *\] ready /line1/a two words")
    up.wait_for(r"\[stubborn\] ready and deaf")
    files = talker_files(up)
    time.sleep(NOTED_S)
    kill_talker(up)
    up.wait_for(r"ready /line1/a two words", 2)
    assert "ended with SIGKILL; starts again in 0.2 s" in up.log.read_text()
    files |= talker_files(up)
    processes = up.descendants()
    assert len(processes) >= 3 and files
    asked = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    code = up.process.wait(timeout=10)
    assert time.monotonic() - asked < 3.0
    assert code == 1, "one node ignored the request and had to be killed"
    assert_nothing_left(up, processes, files)


def test_nothing_survives_a_runner_that_was_killed(up: Up) -> None:
    up.wait_for(r"\[line1/a *\] ready")
    up.wait_for(r"\[stubborn\] ready")
    time.sleep(NOTED_S)
    processes, files = up.descendants(), talker_files(up)
    up.process.kill()
    up.process.wait()
    assert_nothing_left(up, processes, files)


def test_an_unknown_launch_file_is_refused_with_the_names_there_are() -> None:
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-m", "internvla_a1.cli", "up", "nonsense"], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "launch file: asked for 'nonsense', available:" in done.stderr
