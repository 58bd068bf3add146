"""Checkpoint against robot file: a fit is silent, every mismatch is named with a hint on how to mend it."""

from dataclasses import replace
from typing import Any

import pytest
from policy_made_up import contract_of, make_robot, make_stats, small_config

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import CameraSpec, RobotSpec
from internvla_a1.model.checkpoint import Checkpoint, Contract, Manifest
from internvla_a1.model.checkpoint.mapped import TensorMap
from internvla_a1.policy.contract import agree
from internvla_a1.policy.embodiments import KNOWN, embodiment

ROBOT = make_robot()
MODEL = small_config("tiny")


def checkpoint(contract: Contract | None = None, stats: Any = None, robot: RobotSpec = ROBOT, **config: Any) -> Checkpoint:
    from pathlib import Path

    manifest = None if contract is None else Manifest({}, {}, contract)
    return Checkpoint(Path("weights"), config, make_stats(robot) if stats is None else stats, TensorMap({}), manifest)


def test_a_robot_that_fulfils_the_contract_is_accepted() -> None:
    agreement = agree(checkpoint(contract_of(ROBOT)), MODEL, ROBOT)
    assert agreement.delta_mask == (True,) * 6 + (False,) and agreement.is_delta
    assert agreement.views == {0: "cam0", 1: "cam1"}
    assert (agreement.history_s, agreement.horizon_s) == (pytest.approx(0.5), pytest.approx(0.5))
    assert agreement.row.dims == (7,) and set(agreement.statistics) == {"observation.state", "action"}


def test_a_folder_as_published_is_compared_with_its_own_shapes() -> None:
    shapes = {"input_features": {"observation.state": {"shape": [10]}}, "output_features": {"action": {"shape": [7]}}}
    agreement = agree(checkpoint(**shapes), MODEL, ROBOT)
    assert agreement.history_s == pytest.approx(1.5)
    shapes["output_features"]["action"]["shape"] = [6]
    with pytest.raises(ConfigError, match="action has 6 values, robot made_up_arm has 7 joints"):
        agree(checkpoint(**shapes), MODEL, ROBOT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embodiment": "other"}, r"trained for embodiment 'other'.*`embodiment: other`"),
        ({"joint_names": tuple(reversed(ROBOT.joint_names)), "delta": (True,) * 7}, "list the joints in this order"),
        ({"joint_names": tuple("abcdefg")}, "use weights trained on these joints"),
        ({"joint_names": tuple("abcdef"), "delta": (True,) * 6}, "use weights trained on these joints"),
        ({"delta": (False,) * 7}, "actions of j0.* are absolute in the weights.*set `delta:`"),
        ({"delta": (True,) * 7}, "actions of j6 are relative to the state"),
        ({"control_dt_s": 0.05}, "set control_dt_s: 0.05"),
        ({"views": {"image0": "cam0", "image1": "cam1", "image2": "wrist"}}, r"'wrist' as image2.*add `view: image2`"),
        ({"views": {"image0": "cam1", "image1": "cam0"}}, "swap `view:`"),
    ],
)
def test_a_broken_contract_is_named_with_a_hint(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        agree(checkpoint(contract_of(ROBOT, **changes)), MODEL, ROBOT)


def _without(stats: dict, *path: str) -> dict:
    node = stats
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return stats


def _with(stats: dict, value: Any, *path: str) -> dict:
    node = stats
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return stats


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        (_without(make_stats(ROBOT), "made_up"), "asked for robot type 'made_up', available: nothing"),
        (_without(make_stats(ROBOT), "made_up", "action"), "asked for 'action', available: observation.state"),
        (_without(make_stats(ROBOT), "made_up", "action", "std"), "std is missing"),
        (_with(make_stats(ROBOT), [1.0] * 6, "made_up", "action", "std"), "do not fit together"),
        (_with(make_stats(ROBOT), [-1.0] * 7, "made_up", "action", "std"), "do not fit together"),
        (_with(make_stats(ROBOT), [float("nan")] * 7, "made_up", "action", "mean"), "finite"),
        (_with(make_stats(ROBOT), ["x"] * 7, "made_up", "action", "mean"), "not a list of numbers"),
        (_with(make_stats(ROBOT), 3, "made_up"), "must map feature keys"),
        (make_stats(make_robot(6)), "6 values for observation.state of 'made_up', the robot has 7"),
    ],
)
def test_statistics_that_are_missing_or_of_another_robot_are_named(stats: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        agree(checkpoint(contract_of(ROBOT), stats), MODEL, ROBOT)


def test_without_any_statistics_the_hint_says_where_they_come_from() -> None:
    weights = replace(checkpoint(contract_of(ROBOT)), stats=None)
    with pytest.raises(ConfigError, match=r"no stats\.json.*convert"):
        agree(weights, MODEL, ROBOT)


def test_actions_may_have_statistics_per_step_and_states_may_not() -> None:
    stats = make_stats(ROBOT)
    for name in ("mean", "std", "min", "max"):
        stats["made_up"]["action"][name] = [stats["made_up"]["action"][name]] * 8
    assert agree(checkpoint(contract_of(ROBOT), stats), MODEL, ROBOT).statistics["action"].width("mean_std") == 7
    with pytest.raises(ConfigError, match="the chunk has 9 steps"):
        agree(checkpoint(contract_of(ROBOT), stats), replace(MODEL, chunk=9), ROBOT)
    for name in ("mean", "std", "min", "max"):
        stats["made_up"]["observation.state"][name] = [stats["made_up"]["observation.state"][name]] * 8
    with pytest.raises(ConfigError, match="one row only"):
        agree(checkpoint(contract_of(ROBOT), stats), MODEL, ROBOT)


def test_a_robot_larger_than_the_model_is_refused() -> None:
    big = make_robot(11)
    with pytest.raises(ConfigError, match="10 state and 12 action values, robot made_up_arm has 11 joints"):
        agree(checkpoint(contract_of(big), robot=big), MODEL, big)
    eight = make_robot(8)
    with pytest.raises(ConfigError, match="gives 7 action values"):
        agree(checkpoint(contract_of(eight), robot=eight), MODEL, eight)


def test_a_robot_without_a_main_camera_is_refused_and_an_extra_camera_is_left_out() -> None:
    blind = replace(ROBOT, cameras=(CameraSpec("side", "side/image_raw", "image1"),))
    with pytest.raises(ConfigError, match="add `view: image0`"):
        agree(checkpoint(), MODEL, blind)
    three = make_robot(cameras=3)
    assert agree(checkpoint(contract_of(ROBOT)), MODEL, three).views == {0: "cam0", 1: "cam1"}


def _typed(robot_type: str, joints: int, mask: tuple[bool, ...]) -> RobotSpec:
    robot = make_robot(joints, cameras=3, embodiment=robot_type, grippers=())
    return replace(robot, joints=tuple(replace(j, delta=d) for j, d in zip(robot.joints, mask, strict=True)))


def _typed_stats(robot_type: str) -> dict:
    row = embodiment(robot_type)
    pairs = [*zip(row.state_keys, row.dims, strict=True), *zip(row.action_keys, row.dims, strict=True)]
    return {robot_type: {key: {"mean": [0.0] * n, "std": [1.0] * n} for key, n in pairs}}


SIZED = [name for name in KNOWN if embodiment(name).dims]


@pytest.mark.parametrize("robot_type", SIZED)
def test_every_sized_row_of_the_table_accepts_its_own_robot_and_refuses_others(robot_type: str) -> None:
    row = embodiment(robot_type)
    model = replace(MODEL, state_dim=32, action_dim=32, used_action_dim=32, views=3)
    assert row.delta_mask is not None
    for mask in (row.delta_mask, (False,) * row.size):
        agreement = agree(checkpoint(stats=_typed_stats(robot_type)), model, _typed(robot_type, row.size, mask))
        assert agreement.row.dims == row.dims and agreement.delta_mask == mask
    with pytest.raises(ConfigError, match=f"has {row.size} values"):
        agree(checkpoint(stats=_typed_stats(robot_type)), model, _typed(robot_type, row.size + 1, (False,) * (row.size + 1)))
    wrong = (not row.delta_mask[0], *row.delta_mask[1:])
    with pytest.raises(ConfigError, match="delta mask"):
        agree(checkpoint(stats=_typed_stats(robot_type)), model, _typed(robot_type, row.size, wrong))


def test_a_row_without_a_delta_mask_takes_absolute_actions_only() -> None:
    with pytest.raises(ConfigError, match="no delta actions"):
        agree(checkpoint(), MODEL, _typed("r1lite", 7, (True,) * 7))
    with pytest.raises(ConfigError, match="no delta mask"):
        embodiment("r1lite").require_delta_mask()
    assert embodiment("unheard of").delta_mask is None and embodiment("unheard of").cameras == ("observation.image",)
