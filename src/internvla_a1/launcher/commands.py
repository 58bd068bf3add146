"""From a node of the plan to a command line: where the executable is, and how ROS 2 takes names, remaps and parameters."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from internvla_a1.core.errors import ConfigError
from internvla_a1.launcher.document import LaunchFileError
from internvla_a1.launcher.plan import NodePlan
from internvla_a1.launcher.reader import dump_parameters
from internvla_a1.launcher.substitutions import PACKAGE, package_share

# Set where the caller has not: one thread a node (several small processes share the cores), and output line by line.
_DEFAULTS = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
_RANGE, _PROFILE = "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE"


def executable(node: NodePlan) -> list[str]:
    """The command of a node: lib/<pkg>/<exec> of a sourced workspace or, for this package, the module in the checkout.

    Raises LaunchFileError with the place in the launch file.
    """
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":"):
        found = Path(prefix) / "lib" / node.package / node.executable
        if prefix and os.access(found, os.X_OK):
            return [str(found)]
    if node.package == PACKAGE:
        module = f"{PACKAGE}.nodes.{node.executable.removesuffix('_node')}"
        if _exists(module):
            return [sys.executable, "-m", module]
        raise LaunchFileError(f"{node.where}: package {PACKAGE} has no executable {node.executable!r}")
    hint = "" if package_share(node.package) else f"; sudo apt install ros-$ROS_DISTRO-{node.package.replace('_', '-')} brings the package"
    raise LaunchFileError(f"{node.where}: executable {node.executable!r} of package {node.package} is not in AMENT_PREFIX_PATH{hint}")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def command(node: NodePlan, scratch: Path, index: int) -> list[str]:
    """argv of a node. Inline parameters go to files under `scratch`, which keeps types and blanks intact."""
    argv = [*node.prefix, *executable(node), *node.arguments, "--ros-args"]
    if node.name:
        argv += ["-r", f"__node:={node.name}"]
    if node.namespace:
        argv += ["-r", f"__ns:={node.namespace}"]
    for source, target in node.remaps:
        argv += ["-r", f"{source}:={target}"]
    for k, parameters in enumerate(node.parameters):
        if isinstance(parameters, dict):
            path = scratch / f"{index:02d}_{node.label}_{k}.yaml"
            path.write_text(dump_parameters(parameters))
        else:
            path = parameters
        argv += ["--params-file", str(path)]
    return argv


def environment(node: NodePlan) -> dict[str, str]:
    """Environment of a node: its own, plus this runner's defaults where nothing is set."""
    env = dict(node.environment)
    apply_defaults(env)
    source = Path(__file__).resolve().parents[2]
    if source.name == "src":  # a plain checkout: `python -m internvla_a1...` must find it from any folder
        env["PYTHONPATH"] = os.pathsep.join(p for p in (str(source), env.get("PYTHONPATH", "")) if p)
    return env


def apply_defaults(env: MutableMapping[str, str]) -> None:
    """Set what is not set: discovery on this machine only, one thread a node, a Fast DDS profile of this package, a log folder
    where rclpy's own, in the home folder, cannot be written: no node would start."""
    for name, value in _DEFAULTS.items():
        env.setdefault(name, value)
    _stay_on_this_machine(env)
    home = env.get("HOME")
    if not (env.get("ROS_LOG_DIR") or env.get("ROS_HOME")) and not (home and _writable(Path(home) / ".ros" / "log")):
        env["ROS_LOG_DIR"] = str(Path(tempfile.gettempdir()) / f"internvla_a1_ros_log_{os.getuid()}")


def _stay_on_this_machine(env: MutableMapping[str, str]) -> None:
    """No traffic beyond this machine unless somebody asked for it: over loopback alone where neither a range nor a profile was chosen."""
    share = package_share(PACKAGE)
    files = [share / "config" / name for name in ("fastdds_localhost.xml", "fastdds.xml")] if share else []
    chosen = env.get(_PROFILE)
    if len(files) == 2 and all(f.is_file() for f in files):
        ours = not chosen or Path(chosen).resolve() in [f.resolve() for f in files]
        if ours and env.get(_RANGE, "SYSTEM_DEFAULT") == "SYSTEM_DEFAULT":
            env[_RANGE], env[_PROFILE] = "SYSTEM_DEFAULT", str(files[0])
        env.setdefault(_PROFILE, str(files[1]))
    env.setdefault(_RANGE, "LOCALHOST")


def _writable(folder: Path) -> bool:
    """Whether a node can write there; makes the folder, as the node would."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def real_launch() -> list[str] | None:
    """`ros2 launch` where it is installed, else None."""
    ros2 = shutil.which("ros2")
    try:
        present = importlib.util.find_spec("launch_ros") is not None
    except (ImportError, ValueError):
        present = False
    return [ros2, "launch"] if ros2 and present else None


def require_real_launch() -> list[str]:
    """`ros2 launch`, or ConfigError."""
    found = real_launch()
    if found is None:
        raise ConfigError(
            "--ros2-launch: the real `ros2 launch` is not here; sudo apt install ros-$ROS_DISTRO-ros2launch, or leave the option out"
        )
    return found
