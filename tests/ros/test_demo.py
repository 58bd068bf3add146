"""`internvla-a1 demo` as a user runs it: real processes, a report at the end, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]


def start_demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}", "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "internvla_a1.cli", "demo", "--out", str(folder / "out"), *options],
        env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def mapped_shared_memory(processes: list[psutil.Process]) -> set[str]:
    found: set[str] = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            continue
        found |= {line.rpartition("/dev/shm/")[2] for line in maps.splitlines() if "/dev/shm/fastrtps_" in line}
    return {name for name in found if "port" not in name}


def assert_nothing_left(processes: list[psutil.Process], files: set[str], folder: Path) -> None:
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        alive = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        left = [*alive, *sorted(files & set(os.listdir("/dev/shm"))), *folder.glob("internvla_a1_up_*")]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"left behind: {left}")


def test_two_parcels_are_sorted_measured_and_reported(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--policy", "expert", "--parcels", "2", "--belt-speed", "0.06")
    processes: dict[int, psutil.Process] = {}
    files: set[str] = set()
    try:
        end = time.monotonic() + 120.0
        while demo.poll() is None and time.monotonic() < end:
            children = psutil.Process(demo.pid).children(recursive=True) if demo.poll() is None else []
            processes.update({p.pid: p for p in children})
            files |= mapped_shared_memory(children)
            time.sleep(0.5)
        said, _ = demo.communicate(timeout=10)
    finally:
        demo.kill()
    assert demo.returncode == 0, said
    assert "2 of 2 parcels right" in said
    html = (tmp_path / "out" / "report.html").read_text()
    for part in ("data:video/mp4;base64,", "camera → observation", "chunk → command", "camera → command", "2 of 2 parcels right"):
        assert part in html
    assert len(processes) >= 7, "cell, perception, policy, foresight, executor, lifecycle manager and their runner"
    assert_nothing_left(list(processes.values()), files, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_interrupted_while_it_starts_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    demo = start_demo(tmp_path, "--policy", "expert", "--parcels", "2")
    try:
        end = time.monotonic() + 60.0
        processes: list[psutil.Process] = []
        while len(processes) < 7:
            assert time.monotonic() < end and demo.poll() is None
            time.sleep(0.1)
            processes = psutil.Process(demo.pid).children(recursive=True)
        time.sleep(2.0)  # nodes are up to their necks in imports and discovery
        files = mapped_shared_memory(processes)
        demo.send_signal(number)
        code = demo.wait(15.0)
    finally:
        demo.kill()
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert_nothing_left(processes, files, tmp_path)
