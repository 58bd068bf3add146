"""The scripted expert sorts."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import ActionChunk, Observation
from internvla_a1.policy.expert import ExpertPolicy
from internvla_a1.policy.protocol import PolicyRequest
from internvla_a1.sim.cell import Cell, Episode
from internvla_a1.sim.expert import Memory
from internvla_a1.sim.expert_setup import make_expert
from internvla_a1.sim.runner import run_orders
from internvla_a1.sim.urdf import parse_urdf


class Asked:
    """A policy, asked for what the cell shows now."""

    def __init__(self, cell: Cell) -> None:
        self.policy = ExpertPolicy(cell.robot)
        self.chunks: list[ActionChunk] = []

    def request(self, cell: Cell) -> PolicyRequest:
        names, positions, _, _ = cell.joint_state()
        seen = Observation(cell.stamp_ns, {}, {}, names, positions)
        return PolicyRequest(seen, seen, cell.order.text if cell.order else "", len(self.chunks), scene=cell.scene())

    def __call__(self, cell: Cell) -> ActionChunk:
        self.chunks.append(self.policy.infer(self.request(cell)).chunk)
        return self.chunks[-1]


@pytest.mark.parametrize("speed", [0.0, 0.08, 0.25])
def test_it_sorts_from_a_belt_at_this_speed(cell: Cell, speed: float) -> None:
    cell.reset(11, Episode(belt_speed=speed, prefill_y=-0.15 if speed == 0 else None))
    wanted = 1 if speed == 0 else 2
    report = run_orders(Asked(cell), cell, wanted, limit_s=40)
    assert report.score.sorted_correct == wanted
    assert (report.score.sorted_wrong, report.score.missed) == (0, 0)
    assert report.violations["position"] == 0


def test_it_keeps_up_with_a_belt_that_changes_its_speed(cell: Cell) -> None:
    changes = tuple((0.7 * k, speed) for k, speed in enumerate((0.05, 0.15, 0.08, 0.2, 0.12, 0.04, 0.16)))
    cell.reset(12, Episode(belt_speed=0.1, speed_changes=changes))
    report = run_orders(Asked(cell), cell, 1, limit_s=20)
    assert report.score.sorted_correct == 1


def test_an_arm_that_moves_is_taken_over_in_its_motion(cell: Cell) -> None:
    cell.reset(11, Episode(belt_speed=0.08))
    expert = make_expert(parse_urdf(cell.urdf_text), cell.robot)
    _, joints, _, _ = cell.joint_state()
    ahead = joints + np.array([0.003, 0, 0, 0, 0, 0, 0])  # 0.3 rad/s of the base
    start = expert.told(joints, ahead, 0.01)
    moving, _ = expert.plan(cell.scene(), joints, cell.order, Memory(cell.stamp_ns, (start,)), cell.stamp_ns)
    resting, _ = expert.plan(cell.scene(), joints, cell.order, Memory(), cell.stamp_ns)
    assert np.abs(resting[:2, :6] - joints[:6]).max() < 1e-3  # committed: two steps on the spot
    assert moving[0, 0] - joints[0] > 0.005  # bounded acceleration: it cannot stop at once
    assert np.abs(np.diff(moving[:, 0])).max() < 0.15 and len(moving) == len(resting)


def test_a_new_bin_in_mid_carry_is_obeyed(cell: Cell) -> None:
    cell.reset(13)
    asked = Asked(cell)
    order = cell.order
    assert order is not None
    cell.set_instruction(f"put the {order.color} {order.shape} in the left bin")

    def turn(c: Cell) -> None:
        if c.tool_position()[2] > 0.2 and c.joint_state()[1][6] < 0.03:
            c.set_instruction(f"put the {order.color} {order.shape} in the right bin")

    report = run_orders(asked, cell, 1, limit_s=20, each_step=turn)
    assert report.score.sorted_correct == 1
    assert next(e.detail for e in report.events if e.kind == "sorted_correct") == "right"


def test_a_parcel_not_wanted_any_more_goes_back_on_the_belt(cell: Cell) -> None:
    cell.reset(14)
    asked = Asked(cell)
    order = cell.order
    assert order is not None
    taken = cell._desk.target
    changed = False

    def change(c: Cell) -> None:
        nonlocal changed
        if not changed and c.tool_position()[2] > 0.2 and c.joint_state()[1][6] < 0.03:
            other = {"red": "green", "green": "blue", "blue": "red"}[order.color]
            c.set_instruction(f"put the {other} parcel in the right bin")
            changed = True

    run_orders(asked, cell, 99, limit_s=9, each_step=change)
    assert changed
    assert not [e for e in cell.events if e.parcel == taken and e.kind in ("landed", "fallen")]
    assert cell.score.sorted_wrong == 0


def test_a_lost_parcel_is_gone_for_again(cell: Cell) -> None:
    cell.reset(15, Episode(belt_speed=0.04))
    asked = Asked(cell)
    slips = 0

    def slip(c: Cell) -> None:
        """Once, put the parcel back on the belt in front of the rising hand."""
        nonlocal slips
        target = next((o for o in c.scene().objects if o.name == asked.policy._memory.target), None)
        if slips == 0 and target is not None and target.position[2] > 0.14:
            slot = next(p.slot for p in c._pool.active if p.name == target.name)
            at = int(c.model.joint(f"parcel_{slot}").qposadr[0])
            c.data.qpos[at : at + 3] = [0.50, target.position[1] - 0.05, 0.062 + target.size[2] / 2]
            c.data.qvel[int(c.model.joint(f"parcel_{slot}").dofadr[0]) :][:6] = [0, c.belt.speed, 0, 0, 0, 0]
            slips += 1

    report = run_orders(asked, cell, 1, limit_s=30, each_step=slip)
    assert slips == 1
    assert report.score.sorted_correct == 1


def test_chunks_keep_to_the_limits_and_agree_from_one_to_the_next(cell: Cell) -> None:
    cell.reset(16)
    asked = Asked(cell)
    run_orders(asked, cell, 2, limit_s=30)
    lower, upper, fastest = (cell.robot.array(k) for k in ("lower", "upper", "max_velocity"))
    steps = []
    for a, b in zip(asked.chunks[3:], asked.chunks[4:], strict=False):
        assert (a.positions >= lower).all() and (a.positions <= upper).all()
        assert (np.abs(np.diff(a.positions, axis=0)) / a.dt_s <= 1.02 * fastest).all()
        shift = round((b.stamp_ns - a.stamp_ns) * 1e-9 / a.dt_s)
        steps.append(np.abs(a.positions[shift] - b.positions[0])[:6].max())
    assert max(steps) < 0.02  # the committed steps repeat the chunk before


def test_without_an_order_it_waits_over_the_belt(cell: Cell) -> None:
    policy = Asked(cell).policy
    names, positions, _, _ = cell.joint_state()
    seen = Observation(cell.stamp_ns, {}, {}, names, positions)
    chunk = policy.infer(PolicyRequest(seen, seen, "", 1, scene=cell.scene())).chunk
    assert chunk.positions.shape == (50, 7)
    assert np.abs(np.diff(chunk.positions[-5:], axis=0)).max() < 1e-3


def test_it_does_not_act_without_ground_truth(cell: Cell) -> None:
    asked = Asked(cell)
    request = asked.request(cell)
    with pytest.raises(ConfigError, match="ground truth"):
        asked.policy.infer(PolicyRequest(request.observation, request.observation, request.instruction, 1))
