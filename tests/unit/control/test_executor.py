"""What the executor says and sends, beyond the rows of the fault table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.control.config import CHUNK_MODES, ExecutorConfig
from internvla_a1.control.interface import Mode, PlannedMotion
from internvla_a1.core.clock import NS, nanoseconds
from internvla_a1.core.faults import Reason
from internvla_a1.core.types import FloatArray
from internvla_a1.eval.safety_fuzz import fuzz
from internvla_a1.eval.safety_rig import TICK_S, Rig, middle


class Wall:
    """A collision gate for which joint_1 above `at` hits a wall."""

    name = "wall"

    def __init__(self, at: float) -> None:
        self.at = at
        self.checked = 0

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        self.checked += 1
        hits = np.nonzero(path[:, 0] > self.at)[0]
        return PathCheck(int(hits[0]), "link_1 with wall") if len(hits) else PathCheck(len(path))


def ramp(rig: Rig, to: float) -> dict[str, object]:
    """A path that takes joint_1 to `to` in the course of the chunk and ends there."""
    start = middle(rig.robot)

    def path(t: FloatArray) -> FloatArray:
        out = np.tile(start, (len(t), 1))
        out[:, 0] = np.linspace(start[0], to, len(t))
        return out

    return {"path": path, "delay_s": 0.0}


def test_a_chunk_that_hits_is_cut_at_the_last_safe_waypoint_and_braked_there() -> None:
    rig = Rig(collision=Wall(0.25))
    rig.give_policy()
    assert rig.send_chunk(**ramp(rig, 0.6)) is None
    rig.step(55)
    q = np.array(rig.log.q)[:, 0]
    assert 0.1 < q.max() <= 0.25
    assert rig.out.status.refusals["collision"] == 1 and "cut after step" in rig.out.status.last_rejection
    assert rig.out.status.collision_gate == "wall"


def test_a_chunk_whose_next_waypoint_hits_is_refused_with_what_it_hits() -> None:
    rig = Rig(collision=Wall(-1.0))
    rig.give_policy()
    refusal = rig.send_chunk(delay_s=0.0)
    assert refusal is not None and refusal.reason is Reason.COLLISION and "link_1 with wall" in refusal.detail


def test_where_the_arm_may_go_no_further_it_stays_and_its_gripper_goes_on() -> None:
    rig = Rig(collision=Wall(0.25))
    rig.give_policy()
    start, closing = middle(rig.robot), rig.robot.gripper_mask

    def path(t: FloatArray) -> FloatArray:
        out = np.tile(start, (len(t), 1))
        out[:, 0] = np.linspace(start[0], 0.6, len(t))
        out[:, closing] = 0.005
        return out

    for _ in range(12):  # asked again and again, as by a policy that sees no wall
        assert rig.send_chunk(path=path, delay_s=0.0) is None
        rig.step(15)
        start = np.where(closing, start, rig.log.q[-1])
    q = np.array(rig.log.q)
    assert 0.2 < q[:, 0].max() <= 0.25 and q[-1, 0] > 0.23
    assert q[-1, closing] < 0.02
    assert rig.mode is Mode.POLICY and rig.out.status.refusals["collision"] >= 5


def test_only_what_is_still_ahead_of_a_chunk_is_checked() -> None:
    seen: list[int] = []

    class Counting(Wall):
        def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
            seen.append(len(path))
            return super().check(start, path, leaving)

    rig = Rig(collision=Counting(9.0))
    rig.give_policy()
    rig.step(60)
    rig.send_chunk(delay_s=0.5, steps=30)
    assert seen == [30 - 7]


def test_nothing_is_sent_before_somebody_asks_and_nothing_once_at_rest_in_hold() -> None:
    rig = Rig()
    rig.step(50)
    assert not rig.log.segments
    rig.moving(0.5).executor.on_request("hold", rig.now)
    rig.until_rest()
    rig.step(3)
    sent = len(rig.log.segments)
    rig.step(50)
    assert len(rig.log.segments) == sent


def test_the_stop_is_sent_again_until_the_arm_rests() -> None:
    rig = Rig().moving(1.0)
    rig.executor.on_request("hold", rig.now)
    rig.step()
    sent = len(rig.log.segments)
    rig.until_rest()
    assert len(rig.log.segments) >= sent + 3


def test_status_tells_chunk_step_age_and_tracking_error() -> None:
    rig = Rig()
    rig.give_policy()
    rig.run_policy(0.6, every_s=0.3, delay_s=0.1)
    rig.arm.offset = np.full(7, -0.002)
    rig.step()
    status = rig.step().status
    assert status.chunk_id == rig.chunk_id
    assert status.chunk_age_s == pytest.approx(0.1 + 0.3 + 0.02, abs=0.011)
    assert status.step == int(np.ceil(status.chunk_age_s / rig.robot.control_dt_s)) - 1
    assert status.joint_names == rig.robot.joint_names
    assert np.abs(status.tracking_error).max() < 0.02
    assert status.chunks_accepted >= 1 and status.chunks_rejected >= 1, "the first was observed before the request"
    assert rig.out.handover.mode is Mode.POLICY and 0 <= rig.out.handover.blend <= 1


@pytest.mark.parametrize("mode", CHUNK_MODES)
def test_in_every_mode_a_steady_policy_is_followed_closely_whatever_its_delay(mode: str) -> None:
    for delay in (0.03, 0.2, 0.6):
        rig = Rig(config=ExecutorConfig(chunk_mode=mode))
        rig.give_policy()
        rig.run_policy(2.5, every_s=0.2, delay_s=delay)
        chunk = rig.make_chunk(delay_s=0.0, steps=1)
        step = rig.step(round(rig.robot.control_dt_s / 0.01)).status.commanded
        assert np.abs(step - chunk.positions[0])[:6].max() < 0.01


def test_a_planned_motion_runs_in_hold_and_ends() -> None:
    rig = Rig()
    rig.step(3)
    start = rig.measured()
    goal = start + np.where(rig.robot.gripper_mask, 0.0, 0.3)
    motion = PlannedMotion("go home", np.linspace(0.0, 2.0, 20), start + np.linspace(0, 1, 20)[:, None] * (goal - start))
    assert rig.executor.on_planned_motion(motion, rig.now) is None
    out = rig.step(50)
    assert out.handover.mode is Mode.HOLD and "go home" in out.handover.reason and out.status.moving
    rig.step(300)
    assert np.abs(rig.measured() - goal).max() < 1e-3
    assert "go home" not in rig.out.handover.reason


def test_a_request_ends_a_planned_motion_and_a_wrong_one_is_refused() -> None:
    rig = Rig()
    rig.step(3)
    start = rig.measured()
    motion = PlannedMotion("go home", np.array([0.0, 2.0]), np.stack([start, start + 0.01]))
    bad = {
        Reason.FIRST_COMMAND_JUMP: replace(motion, positions=motion.positions + 0.03),
        Reason.NON_FINITE: replace(motion, positions=motion.positions * np.nan),
        Reason.WRONG_SHAPE: replace(motion, positions=motion.positions[:, :3]),
        Reason.WRONG_HORIZON: replace(motion, times_s=np.array([1.0, 0.0])),
    }
    for reason, wrong in bad.items():
        refusal = rig.executor.on_planned_motion(wrong, rig.now)
        assert refusal is not None and refusal.reason is reason
    long = replace(motion, positions=np.stack([start, start + np.where(rig.robot.gripper_mask, 0, 0.5)]))
    assert rig.executor.on_planned_motion(long, rig.now) is None
    rig.step(30)
    assert rig.executor.on_request("hold", rig.now) is None
    assert rig.until_rest() < 0.5
    assert rig.executor.on_request("policy", rig.now) is None
    refusal = rig.executor.on_planned_motion(motion, rig.now)
    assert refusal is not None and refusal.reason is Reason.NOT_ALLOWED


def test_a_passive_leader_moves_the_arm_from_where_the_arm_is_and_an_active_one_to_where_it_is() -> None:
    for mode, expected in (("relative", 0.1), ("absolute", 0.6)):
        rig = Rig(config=ExecutorConfig(teleop_mode=mode))
        rig.step(3)
        leader = middle(rig.robot) + np.where(rig.robot.gripper_mask, 0.0, 0.5)
        rig.teleop(leader)
        assert rig.executor.on_request("teleop", rig.now) is None
        for i in range(250):
            rig.teleop(leader + np.where(rig.robot.gripper_mask, 0.0, min(0.1, 0.001 * i)))
            rig.step()
        moved = (rig.measured() - middle(rig.robot))[:6]
        assert np.allclose(moved, expected, atol=2e-3)


def test_teleop_without_a_request_is_heard_only_while_the_policy_has_the_arm() -> None:
    rig = Rig()
    rig.step(3)
    refusal = rig.teleop(rig.measured())
    assert refusal is not None and refusal.reason is Reason.NOT_ACTIVE_SOURCE and rig.mode is Mode.HOLD
    rig = Rig(config=ExecutorConfig(auto_takeover=False)).moving(0.3)
    assert rig.teleop(rig.measured()) is not None and rig.mode is Mode.POLICY


@pytest.mark.parametrize("change", ["nan", "short", "names", "future"])
def test_a_bad_teleop_command_is_refused_and_takes_nothing(change: str) -> None:
    rig = Rig().moving(0.3)
    from internvla_a1.control.interface import TeleopCommand

    command = TeleopCommand(rig.now.stamp_ns, rig.robot.joint_names, rig.measured())
    wrong = {
        "nan": replace(command, positions=command.positions * np.nan),
        "short": replace(command, positions=command.positions[:3]),
        "names": replace(command, joint_names=("x", *command.joint_names[1:])),
        "future": replace(command, stamp_ns=command.stamp_ns + nanoseconds(0.06)),
    }[change]
    assert rig.executor.on_teleop(wrong, rig.now) is not None
    assert rig.mode is Mode.POLICY


def test_after_a_give_back_with_a_history_the_policy_must_have_seen_all_of_it() -> None:
    rig = Rig(config=ExecutorConfig(history_s=1.0))
    rig.give_policy()
    rig.step(50)
    early = rig.send_chunk(delay_s=0.0)
    assert early is not None and early.reason is Reason.BEFORE_GIVE_BACK
    rig.step(51)
    assert rig.send_chunk(delay_s=0.0) is None


def test_a_gripper_keeps_its_command_when_the_arm_is_armed_again() -> None:
    rig = Rig()
    rig.give_policy()
    closed = middle(rig.robot)
    closed[6] = 0.0
    rig.run_policy(1.0, path=lambda t: np.tile(closed, (len(t), 1)))
    rig.executor.on_request("hold", rig.now)
    rig.until_rest()
    rig.arm.offset[6] = 0.02  # an object is in it
    rig.step(50)
    rig.give_policy()
    rig.step(2)
    assert rig.out.status.commanded[6] == pytest.approx(0.0, abs=1e-4)


def test_a_flood_within_one_tick_is_dropped_unread() -> None:
    rig = Rig().moving(0.3)
    answers = [rig.send_chunk(delay_s=0.0) for _ in range(60)]
    assert answers[-1] is not None and answers[-1].reason is Reason.FLOODED
    rig.step()
    fresh = rig.send_chunk(delay_s=0.0)
    assert fresh is None or fresh.reason is not Reason.FLOODED


def test_a_segment_that_did_not_go_out_leaves_no_step_in_the_next() -> None:
    """A late tick: new targets were planned for, the segment was taken back, the arm still follows the one before."""
    rig = Rig().moving(0.5)
    rig.clock.advance(TICK_S)
    rig.send_state()
    rig.send_chunk(offset=0.3)
    followed = rig.arm.segment
    assert rig.executor.tick(rig.now).segment is not None
    rig.executor.unsent()
    rig.clock.advance(TICK_S)
    rig.send_state()
    segment = rig.executor.tick(rig.now).segment
    assert segment is not None and followed is not None, "the next tick sends at once"
    start = segment.stamp_ns + nanoseconds(float(segment.times_s[0]))
    had = followed.sample(np.array([(start - followed.stamp_ns) / NS]))
    new = segment.sample(segment.times_s[:1])
    assert np.abs(new[0] - had[0]).max() < 1e-9 and np.abs(new[1] - had[1]).max() < 1e-9


def test_a_person_moves_the_arm_as_far_as_nothing_is_touched_and_is_told() -> None:
    rig = Rig(collision=Wall(0.25))
    rig.step(2)
    rig.executor.on_request("teleop", rig.now)
    goal = middle(rig.robot)
    goal[0] = 0.6
    refusals = []
    for _ in range(150):
        refusals.append(rig.teleop(goal))
        rig.step()
    reached = np.array(rig.log.q)[:, 0].max()
    assert 0.15 < reached <= 0.25
    assert any(r is not None and r.reason is Reason.COLLISION and "link_1 with wall" in r.detail for r in refusals)
    goal[0] = 0.0
    for _ in range(150):
        rig.teleop(goal)
        rig.step()
    assert rig.log.q[-1][0] < 0.05, "away from the wall it goes on"


def test_random_ticks_visit_every_mode_and_raise_nothing() -> None:
    result = fuzz(1500, seed=1)
    assert result.exceptions == 0
    assert result.modes_seen == set(Mode)
    assert result.segments > 100


def test_a_late_chunk_finds_the_arm_slowing_down_and_goes_on_with_it() -> None:
    """Between 0.42 and 0.5 s after the newest chunk the plan brakes already; only then is the arm taken from the policy."""
    rig = Rig().moving(1.0)
    rig.send_chunk()
    rig.step(40)
    followed = rig.speed()
    rig.step(8)
    slowed = rig.speed()
    assert rig.mode is Mode.POLICY and slowed < 0.7 * followed, (followed, slowed)
    rig.send_chunk()
    rig.step(15)
    assert rig.mode is Mode.POLICY and rig.speed() > 0.8 * followed
    a, limits = np.array(rig.log.a), rig.executor.limits
    assert (np.abs(a) <= limits.acceleration + 1e-6).all()
    rig.step(60)
    assert rig.mode is Mode.HOLD and rig.until_rest() <= rig.braking_time()
