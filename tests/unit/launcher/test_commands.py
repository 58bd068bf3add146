import os
import sys
from pathlib import Path

import pytest
import yaml

from internvla_a1.launcher.commands import apply_defaults, command, environment, executable
from internvla_a1.launcher.document import LaunchFileError
from internvla_a1.launcher.plan import NodePlan


def node(package: str = "tiny", executable: str = "talker", **more: object) -> NodePlan:
    return NodePlan(package, executable, "a.launch.yaml:3", **more)  # type: ignore[arg-type]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "install" / "lib" / "tiny" / "talker"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'install'}")
    return tmp_path


def test_an_executable_is_found_in_a_sourced_workspace(prefix: Path) -> None:
    assert executable(node()) == [str(prefix / "install/lib/tiny/talker")]


def test_a_node_of_this_package_runs_as_a_module_in_a_plain_checkout(prefix: Path) -> None:
    assert executable(node("internvla_a1", "recorder_node")) == [sys.executable, "-m", "internvla_a1.nodes.recorder"]


def test_a_missing_executable_is_refused_with_its_place_in_the_launch_file(prefix: Path) -> None:
    with pytest.raises(LaunchFileError, match=r"a.launch.yaml:3: executable 'rviz2' of package rviz2 .* ros-\$ROS_DISTRO-rviz2"):
        executable(node("rviz2", "rviz2"))
    with pytest.raises(LaunchFileError, match="no executable 'dream_node'"):
        executable(node("internvla_a1", "dream_node"))


def test_a_command_line_carries_name_namespace_remaps_and_typed_parameters(prefix: Path) -> None:
    plan = node(
        name="a", namespace="/line1", remaps=(("x", "y"),), parameters=({"text": "put the red box", "speed": 1.0},), arguments=("-v",)
    )
    argv = command(plan, prefix, 0)
    assert argv[1:9] == ["-v", "--ros-args", "-r", "__node:=a", "-r", "__ns:=/line1", "-r", "x:=y"]
    written = yaml.safe_load(Path(argv[argv.index("--params-file") + 1]).read_text())
    assert written == {"/**": {"ros__parameters": {"text": "put the red box", "speed": 1.0}}}


def test_the_discovery_range_is_this_machine_unless_somebody_chose(prefix: Path) -> None:
    chosen, profile = "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE"

    def of(**given: str) -> tuple[str, str]:
        found = environment(node(environment=given))
        return found[chosen], Path(found[profile]).name

    assert of() == ("SYSTEM_DEFAULT", "fastdds_localhost.xml")
    assert of(**environment(node())) == of(), "a runner in a runner's environment"
    assert of(**{chosen: "SUBNET"}) == ("SUBNET", "fastdds.xml")
    assert of(**{chosen: "LOCALHOST"}) == ("LOCALHOST", "fastdds.xml")
    assert of(**{profile: "/etc/own.xml"}) == ("LOCALHOST", "own.xml")
    assert of(**{profile: "/etc/own.xml", chosen: "SYSTEM_DEFAULT"}) == ("SYSTEM_DEFAULT", "own.xml")


def test_nodes_log_elsewhere_where_the_home_folder_cannot_be_written(tmp_path: Path) -> None:
    fine = {"HOME": str(tmp_path)}
    apply_defaults(fine)
    assert "ROS_LOG_DIR" not in fine
    for home in ({}, {"HOME": "/proc/nowhere"}):
        env: dict[str, str] = dict(home)
        apply_defaults(env)
        assert os.access(Path(env["ROS_LOG_DIR"]).parent, os.W_OK)
    chosen = {"ROS_LOG_DIR": "/somewhere"}
    apply_defaults(chosen)
    assert chosen["ROS_LOG_DIR"] == "/somewhere"
