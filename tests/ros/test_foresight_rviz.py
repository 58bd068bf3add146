"""The RViz configurations: standard displays, and only topics that the contract names."""

from __future__ import annotations

import re

import pytest
import yaml

from internvla_a1.core.resources import share_dir
from internvla_a1.core.robot import load_robot

RVIZ = share_dir() / "config" / "rviz"
CAMERAS = load_robot(share_dir() / "config/robots/demo_arm.yaml").camera_names
CONTRACT = {  # topic -> (kind of display, QoS of the publisher), from the interface contract
    "robot_description": ("RobotModel", "Reliable", "Transient Local"),
    "foresight/image": ("Image", "Reliable", "Volatile"),
    "foresight/markers": ("MarkerArray", "Reliable", "Volatile"),
    "cell/objects": ("MarkerArray", "Reliable", "Volatile"),
    **{f"foresight/{camera}/image": ("Image", "Reliable", "Volatile") for camera in CAMERAS},
    **{f"{camera}/image_raw": ("Image", "Best Effort", "Volatile") for camera in CAMERAS},
}


@pytest.fixture(params=["conveyor", "foresight"])
def displays(request):
    config = yaml.safe_load((RVIZ / f"{request.param}.rviz").read_text())
    return config["Visualization Manager"]["Displays"]


def test_every_display_is_one_that_comes_with_rviz(displays):
    assert all(re.fullmatch(r"rviz_default_plugins/(Grid|RobotModel|MarkerArray|Image|TF)", d["Class"]) for d in displays)


def test_every_topic_is_in_the_contract_with_a_fitting_quality_of_service(displays):
    topics = [(d, d.get("Topic") or d.get("Description Topic")) for d in displays if "Topic" in d or "Description Topic" in d]
    assert len(topics) >= 5
    for display, topic in topics:
        kind, reliability, durability = CONTRACT[topic["Value"]]
        assert display["Class"].endswith("/" + kind)
        assert (topic["Reliability Policy"], topic["Durability Policy"]) == (reliability, durability)


def test_the_robot_and_its_ghost_are_two_models_of_one_description(displays):
    prefixes = sorted(d["TF Prefix"] for d in displays if d["Class"].endswith("RobotModel"))
    assert prefixes == ["", "ghost"]


def test_the_foresight_view_shows_each_predicted_camera():
    config = yaml.safe_load((RVIZ / "foresight.rviz").read_text())
    shown = {d["Topic"]["Value"] for d in config["Visualization Manager"]["Displays"] if "Topic" in d}
    assert {f"foresight/{camera}/image" for camera in CAMERAS} <= shown
