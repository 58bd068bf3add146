"""Out of the collision gate's margin: an arm that an emergency stop left too near to something is led away, never nearer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from internvla_a1.control.collision import PinocchioGate
from internvla_a1.control.interface import PlannedMotion
from internvla_a1.control.planning import JointPlanner
from internvla_a1.core.faults import Reason
from internvla_a1.core.types import FloatArray
from internvla_a1.eval.arms import collision_gate
from internvla_a1.eval.safety_rig import Rig, demo_robot

pin = pytest.importorskip("pinocchio", reason="the tests need the dev requirements")

ROBOT = demo_robot()
HOME = ROBOT.array("home")
MARGIN_M = 0.005


@pytest.fixture(scope="module")
def gate() -> PinocchioGate:
    return collision_gate(ROBOT)


def distance(gate: PinocchioGate, q: FloatArray) -> float:
    """Of the nearest pair, m: pinocchio asked once more, with geometry data of its own."""
    data = gate._geometry.createData()
    pin.computeDistances(gate._model, gate._data, gate._geometry, data, gate._full(q))
    return min(result.min_distance for result in data.distanceResults)


def places(gate: PinocchioGate, low: float, high: float, n: int, seed: int = 0) -> list[tuple[FloatArray, FloatArray]]:
    """n postures whose nearest pair is between low and high apart, each with the free posture from which it was come there."""
    rng, found = np.random.default_rng(seed), []
    lower, upper = ROBOT.array("lower"), ROBOT.array("upper")
    while len(found) < n:
        free, other = (HOME + rng.uniform(0.0, 1.0) * (rng.uniform(lower, upper) - HOME) for _ in range(2))
        if gate.hit(free) or not gate.hit(other):
            continue
        a, b = 0.0, 1.0
        for _ in range(40):
            share = (a + b) / 2
            apart = distance(gate, free + share * (other - free))
            if low < apart < high:
                found.append((free + share * (other - free), free))
                break
            a, b = (share, b) if apart >= high else (a, share)
    return found


def test_out_is_free_and_nearer_is_not(gate: PinocchioGate) -> None:
    outs = 0
    for near, free in places(gate, 0.001, 0.004, 12):
        assert gate.hit(near) and gate.check(near, near[None]).safe == 0, "without asking to leave it is a hit"
        assert gate.check(near, near[None], leaving=True).safe == 1, "staying is not nearer"
        out = near + np.linspace(0, 1, 21)[1:, None] * (free - near)
        apart = np.array([distance(gate, near), *(distance(gate, q) for q in out)])
        result = gate.check(near, out, leaving=True)
        outs += result.safe == len(out)
        assert (np.diff(np.minimum(apart, MARGIN_M))[: result.safe] > -1.1e-5).all(), "nothing on the way is nearer than what was before it"
        assert gate.check(near, (near - 0.02 * (free - near))[None], leaving=True).safe == 0
        back = np.vstack([out, out[::-1], near[None]])
        assert gate.check(near, back, leaving=True).safe <= 2 * len(out), "what has come out stays out"
        assert gate.check(near, near[None]).safe == 0 and gate.hit(near), "the margin is again what it was"
    assert outs >= 6, "the way back must mostly be free"


def test_from_a_touch_no_way_is_known_to_lead_out(gate: PinocchioGate) -> None:
    for touching, _ in places(gate, -0.02, -0.002, 5, seed=1):
        assert gate.check(touching, touching[None], leaving=True).safe == 0


def straight(to: FloatArray, start: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """A chunk's path, from start to `to` within its length."""

    def path(t: FloatArray) -> FloatArray:
        share = np.linspace(0.0, 1.0, len(t))[:, None]
        return start + share * share * (3 - 2 * share) * (to - start)

    return path


def test_a_policy_leads_the_arm_out_of_the_margin_and_no_nearer(gate: PinocchioGate) -> None:
    left = 0
    for near, free in places(gate, 0.001, 0.004, 6, seed=2):
        far = near + (free - near) * min(1.0, 0.3 / np.abs(free - near).max())
        rig = Rig(collision=gate, start=near)
        rig.give_policy()
        for k in range(6):
            start = rig.log.q[-1]
            refusal = rig.send_chunk(path=straight(far if k % 2 else 2 * start - far, start), delay_s=0.0)
            assert refusal is None, refusal
            rig.step(12)
        rig.send_chunk(path=straight(far, rig.log.q[-1]), delay_s=0.0)
        rig.step(200)
        apart = np.minimum([distance(gate, q) for q in [near, *rig.log.q]], MARGIN_M)
        assert (np.maximum.accumulate(apart) - apart).max() < 3e-4, "a joint that turns round swings by up to 1 mrad between two checks"
        assert rig.executor.refusals["collision"] >= 3, "each chunk that led nearer was cut"
        left += apart[-1] >= MARGIN_M - 1e-4
    assert left >= 4


def test_the_arm_goes_home_from_within_the_margin(gate: PinocchioGate) -> None:
    for near, _ in places(gate, 0.001, 0.004, 4, seed=3):
        rig = Rig(collision=gate, start=near)
        motion = JointPlanner(rig.executor.limits, gate).plan("home", near, HOME)
        assert isinstance(motion, PlannedMotion), motion
        rig.step(3)
        assert rig.executor.on_planned_motion(motion, rig.now) is None
        rig.step(round(motion.times_s[-1] / 0.01) + 40)
        assert np.abs(rig.measured() - HOME).max() < 1e-3
        assert min(distance(gate, q) for q in rig.log.q[::5]) > distance(gate, near) - 5e-5


def test_a_goal_within_the_margin_is_refused(gate: PinocchioGate) -> None:
    near, _ = places(gate, 0.001, 0.004, 1, seed=4)[0]
    answer = JointPlanner(Rig().executor.limits, gate, tries=20).plan("there", HOME, near)
    assert getattr(answer, "reason", None) is Reason.COLLISION
