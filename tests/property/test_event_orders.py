"""Any order of events, on any robot: one source, every limit kept, every segment at rest in the end, no exception."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from internvla_a1.control.interface import Mode
from internvla_a1.core.robot import load_robot
from internvla_a1.eval.safety_fuzz import fuzz
from internvla_a1.eval.safety_rig import Rig, worst_of

ROBOTS = sorted((Path(__file__).parents[2] / "config" / "robots").glob("*.yaml"))
ASKED = ("policy", "teleop asked", "hold", "clear")
WORLD = ("chunk", "teleop", "let go", "stop", "stop clear", "two", "one", "fail")
EVENTS = ("tick", "tick", "tick", *ASKED, *WORLD)


def happen(rig: Rig, event: str) -> None:
    now = rig.now
    if event == "tick":
        rig.step(3)
    elif event == "chunk":
        was = rig.mode
        assert rig.send_chunk(delay_s=0.0) is not None or was is Mode.POLICY
    elif event in ("teleop", "let go"):
        taken = rig.teleop(rig.measured() + 0.2, deadman=event == "teleop")
        assert event == "let go" or taken is not None or rig.mode is Mode.TELEOP
    elif event in ("policy", "hold", "teleop asked"):
        rig.executor.on_request(event.split()[0], now)
    elif event in ("stop", "stop clear"):
        rig.executor.on_estop(event == "stop", now)
    elif event == "clear":
        rig.executor.on_clear_fault(now)
    elif event in ("two", "one"):
        rig.executor.on_publishers(1 + (event == "two"), now)
    else:
        rig.executor.on_controller_result(False, "-1", now)


@settings(max_examples=40, deadline=None)
@given(events=st.lists(st.sampled_from(EVENTS), min_size=5, max_size=40))
def test_whatever_the_order_of_events_one_source_is_heard_and_every_limit_kept(events: list[str]) -> None:
    rig = Rig()
    rig.step(2)
    for event in ["policy", "chunk", *events]:
        before = rig.mode
        happen(rig, event)
        if before in (Mode.FAULT, Mode.ESTOP) and event != "clear":
            assert rig.mode in (Mode.FAULT, Mode.ESTOP), "left by a reset only"
        if event == "stop":
            assert rig.step().handover.mode is Mode.ESTOP
    assert worst_of(rig.log.segments, rig.executor).violations == 0
    q = np.array(rig.log.q)
    assert (np.abs(np.diff(q, axis=0)) <= rig.executor.limits.velocity * 0.01 * 1.01 + 1e-9).all(), "nothing jumps"
    rig.executor.on_request("hold", rig.now)
    assert rig.until_rest() < 1.5


def test_random_ticks_break_no_limit_on_any_robot() -> None:
    for seed, path in enumerate(ROBOTS):
        result = fuzz(400, seed=100 + seed, robot=load_robot(path))
        assert result.worst.violations == 0 and result.exceptions == 0, path.stem
        assert result.step_share <= 1.0, path.stem
