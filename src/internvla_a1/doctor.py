"""`internvla-a1 doctor`: what of this environment works, what is missing, and which command brings it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import share_dir

_INTERFACES = ("internvla_a1_msgs", "tf2_msgs")
_PROBE_S = 60
_PICTURE = """
import os, time
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.config import load_cell_config
cell = Cell(load_cell_config("config/cell.yaml"), 0)
name = cell.robot.cameras[0].name
cell.render(name)
start = time.perf_counter()
image = cell.render(name)
took_ms = 1e3 * (time.perf_counter() - start)
assert image.std() > 1, "the picture is empty"
print(f"{os.environ.get('MUJOCO_GL', 'default')}: {image.shape[1]}x{image.shape[0]} in {took_ms:.1f} ms")
"""


@dataclass(frozen=True)
class Finding:
    """One line. state: ok, missing (optional) or broken (required). fix: the command or file that mends it."""

    area: str
    name: str
    state: str
    detail: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(args: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in check()]
    broken = [f for f in findings if f.state == "broken"]
    if args.json:
        print(json.dumps({"ok": not broken, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        _print(findings, broken)
    return 1 if broken else 0


def _print(findings: list[Finding], broken: list[Finding]) -> None:
    table = Table("", "what", "finding", "how to get it", show_lines=False, box=None, pad_edge=False)
    signs = {"ok": "[green]✓[/]", "missing": "[yellow]–[/]", "broken": "[bold red]✗[/]"}
    area = ""
    for f in findings:
        if f.area != area:
            area = f.area
            table.add_row("", f"[bold]{area}[/]", "", "")
        table.add_row(signs[f.state], f.name, f.detail, f"[dim]{f.fix}[/]" if f.state != "ok" else "")
    console = Console()
    console.print(table)
    if broken:
        console.print(f"\n[bold red]{len(broken)} required part(s) do not work:[/] {', '.join(f.name for f in broken)}")
    else:
        console.print("\n[bold green]Everything that is required works.[/] – marks optional parts.")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    fine = (3, 10) <= sys.version_info[:2] <= (3, 12)
    place = "virtual environment" if sys.prefix != sys.base_prefix else "system"
    yield Finding("Python", "version", "ok" if fine else "broken", f"{version}, {place} {sys.prefix}", "Python 3.10 to 3.12")
    for package in ("numpy", "yaml", "mujoco", "cv2", "av", "matplotlib"):
        yield _module("Python", package, required=True, fix="make setup (pip install -r requirements/runtime.txt)")


def _module(area: str, module: str, required: bool, fix: str, note: str = "") -> Finding:
    if not _there(module):
        return Finding(area, module, "broken" if required else "missing", note or "not installed", fix)
    return Finding(area, module, "ok", _version(module) or "installed")


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _version(module: str) -> str:
    names = importlib.metadata.packages_distributions().get(module.split(".")[0], [])
    for name in names:
        return f"{name} {importlib.metadata.version(name)}"
    return ""


def _ros() -> Iterator[Finding]:
    if importlib.util.find_spec("rclpy") is None:
        yield Finding("ROS 2", "rclpy", "broken", "not importable", "make setup, or source /opt/ros/$ROS_DISTRO/setup.bash")
        return
    where = Path(str(importlib.util.find_spec("rclpy").origin)).parent  # type: ignore[union-attr]
    wheels = str(where).startswith(sys.prefix)
    distribution = os.environ.get("ROS_DISTRO", "jazzy" if wheels else "unknown")
    yield Finding(
        "ROS 2", "distribution", "ok", f"{distribution}, {'from wheels in this environment' if wheels else f'installed: {where}'}"
    )
    yield _probe(
        "ROS 2", "node starts",
        "import rclpy; rclpy.init(domain_id=101); n = rclpy.create_node('doctor'); print(rclpy.get_rmw_implementation_identifier()); "
        "n.destroy_node(); rclpy.shutdown()",
        "HOME or ROS_LOG_DIR must be writable; see the message",
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
    )  # fmt: skip
    for package in _INTERFACES:
        build = "make setup" if wheels else "colcon build --base-paths . ros2_ws/src && . install/setup.bash"
        yield _probe("ROS 2", package, f"import {package}.msg; print('built')", build)
    yield _control_msgs(wheels)
    asked = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "unset; internvla-a1 up stays on the loopback interface")
    yield Finding("ROS 2", "discovery range", "ok", asked)
    free = shutil.disk_usage("/dev/shm").free / 1e6 if Path("/dev/shm").is_dir() else 0.0
    yield Finding(
        "ROS 2", "shared memory", "ok" if free > 64 else "broken", f"{free:.0f} MB free in /dev/shm", "docker run --shm-size=512m"
    )


def _control_msgs(wheels: bool) -> Finding:
    source = "import control_msgs.action as a; print('complete' if hasattr(a, 'PointHead') else 'the subset in ros2_ws/compat')"
    found = _probe("ROS 2", "control_msgs", source, "make setup" if wheels else "sudo apt install ros-$ROS_DISTRO-control-msgs")
    return found if found.state == "ok" else Finding("ROS 2", "control_msgs", "missing", "needed for driver:=action only", found.fix)


def _probe(area: str, name: str, source: str, fix: str, env: dict[str, str] | None = None) -> Finding:
    """Run a line of Python in a process of its own: a crash there is a finding, not the end of the doctor."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, timeout=_PROBE_S, env={**os.environ, **(env or {})}
        )
    except subprocess.TimeoutExpired:
        return Finding(area, name, "broken", f"no answer within {_PROBE_S} s", fix)
    if done.returncode == 0:
        return Finding(area, name, "ok", done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "works")
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    return Finding(area, name, "broken", last[:200], fix)


def _build_tools() -> Iterator[Finding]:
    for name, tool, package in (("C++ compiler", "c++", "build-essential"), ("cmake", "cmake", "cmake")):
        path = shutil.which(tool)
        yield Finding(
            "Build tools", name, "ok" if path else "missing", path or "only needed to build the interfaces", f"sudo apt install {package}"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    yield Finding("Build tools", "Python.h", "ok" if header.is_file() else "missing", str(header), "sudo apt install python3-dev")


def _graphics() -> Iterator[Finding]:
    yield _probe("Graphics", "off-screen picture", _PICTURE, "sudo apt install libegl1 libgl1-mesa-dri", {"PYTHONPATH": _source_path()})
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    yield Finding(
        "Graphics", "display", "ok" if display else "missing", display or "none: viewer and RViz need one; demo --view shows a page"
    )


def _source_path() -> str:
    return os.pathsep.join(p for p in (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")) if p)


def _network() -> Iterator[Finding]:
    found = _probe(
        "Model", "torch",
        "import torch; d = f'{torch.cuda.get_device_name()} ({torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB)' "
        "if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}'; "
        "print(torch.__version__, d)",
        "make setup (only the network policy needs it)",
    )  # fmt: skip
    yield found if found.state == "ok" else Finding(found.area, found.name, "missing", found.detail, found.fix)
    try:
        folder = share_dir() / "model_weights"
    except ConfigError as error:
        yield Finding("Model", "package files", "broken", str(error), "run inside the checkout, or source install/setup.bash")
        return
    kept = sorted(p.parent.relative_to(folder) for p in folder.rglob("*.safetensors")) if folder.is_dir() else []
    names = sorted({str(p) for p in kept})
    yield Finding(
        "Model", "weights", "ok" if names else "missing", ", ".join(names) or f"none under {folder}", "internvla-a1 weights --help"
    )
    yield _module("Model", "flash_attn", False, "pip install flash-attn (CUDA only)", "optional, CUDA: torch's own attention is used")


def _optional() -> Iterator[Finding]:
    apt = "sudo apt install ros-$ROS_DISTRO-"
    for module, fix, note in (
        ("launch_ros", f"{apt}ros2launch", "internvla-a1 up runs the same launch files"),
        ("tf2_ros", f"{apt}tf2-ros", "transforms are published and read without it"),
        ("cv_bridge", f"{apt}cv-bridge", "pictures are read without it"),
        ("moveit", f"{apt}moveit-py", "go_home plans with roboplan or the executor's own planner instead"),
        ("pinocchio", "pip install pin", "no collision gate without it"),
        ("coal", "pip install coal", "no collision gate without it"),
        ("roboplan.toppra", "pip install roboplan-rrt roboplan-toppra", "go_home plans with the executor's own planner instead"),
        ("ruckig", "pip install ruckig", ""),
    ):
        yield _module("Optional", module, False, fix, note)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _ros, _build_tools, _graphics, _network, _optional)
