"""The whole stack as processes, and a person at a second terminal of the same machine who knows docs/interfaces.md and plain rclpy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from internvla_a1.demo.domain import DomainLease
from internvla_a1.demo.stack import Stack

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parents[2]
CAMERAS = ("overhead", "side", "wrist")
QUALITY = {
    "sensor data": ("BEST_EFFORT", "VOLATILE"), "best effort": ("BEST_EFFORT", "VOLATILE"),
    "reliable": ("RELIABLE", "VOLATILE"), "latched": ("RELIABLE", "TRANSIENT_LOCAL"),
}  # fmt: skip


def contract() -> list[tuple[str, str, str]]:
    """(topic, type, quality of service) of the table, one row for each camera."""
    table = (ROOT / "docs" / "interfaces.md").read_text().partition("## Topics")[2].partition("## Services")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|,]+), \d+ \|", table, re.MULTILINE)
    names = [(f"/{topic.lstrip('/')}", kind, quality) for topic, kind, quality in rows]
    return [(t.replace("<camera>", c), kind, q) for t, kind, q in names for c in (CAMERAS if "<camera>" in t else ("",))]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("second_terminal")
    lease = DomainLease()
    arguments = {"policy": "expert", "belt_speed": "0.06", "teleop": "true", "record": "true"}
    stack = Stack("conveyor_sorting", arguments, lease.domain, folder / "nodes.log")
    env = {k: v for k, v in os.environ.items() if k != "FASTRTPS_DEFAULT_PROFILES_FILE"}
    env |= {"ROS_DOMAIN_ID": str(lease.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOG_DIR": str(folder / "ros")}
    try:
        person = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "ros" / "second_terminal.py")], env=env, capture_output=True, text=True, timeout=180
        )
        assert person.returncode == 0, person.stderr + stack.tail()
        return json.loads(person.stdout.splitlines()[-1])
    finally:
        stack.close()
        lease.close()


def test_every_topic_of_the_contract_is_there_with_its_type_and_quality_of_service(said: dict[str, Any]) -> None:
    rows = contract()
    assert len(rows) == 29
    for topic, kind, quality in rows:
        end = said["graph"].get(topic)
        assert end is not None and end["ends"], f"{topic} is not there"
        package, _, leaf = kind.partition("/")
        assert end["types"] == [f"{package}/msg/{leaf}"], topic
        assert all(tuple(offered) == QUALITY[quality] for offered in end["publishers"]), f"{topic}: {end['publishers']}, not {quality}"


def test_every_service_of_the_contract_is_there(said: dict[str, Any]) -> None:
    table = (ROOT / "docs" / "interfaces.md").read_text().partition("## Services")[2].partition("## What")[0]
    names = re.findall(r"^\| `([\w/]+)` \| `\w+/\w+` \|", table, re.MULTILINE)
    assert len(names) == 8
    for name in names:
        there = f"/{name}/_action/send_goal" if name.endswith("trajectory") else f"/{name}"
        assert there in said["services"]


def test_a_person_pauses_takes_over_and_gives_back(said: dict[str, Any]) -> None:
    assert said["heard"] and said["policy"] and said["policy moves"]
    assert said["hold"] and said["held travel"] < 0.005
    print("own silence", said["own silence"])
    assert said["teleop asked"] and said["teleop"] and 0.10 < said["driven"] < 0.17, said["own silence"]
    assert said["silence holds"], "the device fell silent, and the arm was not held"
    assert said["given back"] and said["policy moves again"]
