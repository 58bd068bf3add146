"""The message contract: fields of our interfaces, and type hashes of the stand-ins for packages that the wheels lack."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# Type hashes of ROS 2 Jazzy; the hash is not enforced by the middleware: a goal of a wrong type is never accepted, without any error.
JAZZY = {
    "tf2_msgs/msg/TFMessage": "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
    "control_msgs/action/FollowJointTrajectory": "RIHS01_738ebcb7a2d7cfa42f9f1001cc99ce3a4383d1cfe508015d9be8485e4b1c66f6",
}

CONTRACT = {
    "Observation": "header cameras images image_valid image_age joint_names joint_positions state_age",
    "ActionChunk": "header id source joint_names steps dt positions frozen_steps inference_time instruction",
    "Foresight": "header chunk_id horizon cameras latent_shape latents images",
    "HandoverState": "header mode reason blend chunk_id",
    "ExecutorStatus": "header chunk_id step joint_names commanded tracking_error chunk_age chunks_accepted chunks_rejected "
    "limits_applied last_rejection",
    "SortingScore": "header spawned sorted_correct sorted_wrong missed belt_speed",
}


def share(package: str) -> Path:
    ours = Path(sys.prefix) / "share" / package
    if ours.exists():
        return ours
    from ament_index_python import get_package_share_directory

    return Path(get_package_share_directory(package))


@pytest.mark.parametrize("name", sorted(JAZZY))
def test_a_stand_in_has_the_type_hash_of_jazzy(name: str) -> None:
    package, kind, leaf = name.split("/")
    described = json.loads((share(package) / kind / f"{leaf}.json").read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in described["type_hashes"]}
    assert hashes[name] == JAZZY[name]


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_a_message_has_the_fields_of_the_contract_in_order(name: str) -> None:
    import internvla_a1_msgs.msg as messages

    assert " ".join(getattr(messages, name).get_fields_and_field_types()) == CONTRACT[name]


def test_the_modes_of_the_handover_have_their_published_numbers() -> None:
    from internvla_a1_msgs.msg import HandoverState

    assert [HandoverState.HOLD, HandoverState.TELEOP, HandoverState.POLICY, HandoverState.FAULT, HandoverState.ESTOP] == [0, 1, 2, 3, 4]


def test_the_result_codes_of_a_trajectory_are_the_real_ones() -> None:
    from control_msgs.action import FollowJointTrajectory

    names = ("SUCCESSFUL", "INVALID_GOAL", "INVALID_JOINTS", "OLD_HEADER_TIMESTAMP", "PATH_TOLERANCE_VIOLATED", "GOAL_TOLERANCE_VIOLATED")
    assert [getattr(FollowJointTrajectory.Result, n) for n in names] == [0, -1, -2, -3, -4, -5]
