"""Closed loop without ROS: protocols do what they say, failures get their names, results are repeatable and resumable."""

import argparse
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.scene import parse_order
from internvla_a1.core.types import ActionChunk
from internvla_a1.eval import cli
from internvla_a1.eval.campaign import Case, Result, evaluate, read_outcomes
from internvla_a1.eval.closed_loop import Loop, Outcome
from internvla_a1.eval.intervals import Share, difference
from internvla_a1.eval.leading import Leader
from internvla_a1.eval.observing import History, observe
from internvla_a1.eval.protocol import Protocol, order_something
from internvla_a1.eval.report import to_json, write_report
from internvla_a1.policy.expert import ExpertPolicy
from internvla_a1.policy.protocol import PolicyResult
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.cell import Episode as Start

SMALL = 16


@dataclass
class Watched:
    """The expert, remembering what it was asked; or a policy that stays where it is."""

    expert: ExpertPolicy
    still: bool = False
    requests: list = None

    def __post_init__(self):
        self.requests = []
        self.robot, self.history_s, self.horizon_s, self.needs_scene = self.expert.robot, 0.2, 0.0, True

    def infer(self, request):
        self.requests.append(request)
        if not self.still:
            return self.expert.infer(request)
        seen = request.observation
        held = np.tile(seen.positions, (8, 1))
        return PolicyResult(ActionChunk(seen.stamp_ns, request.chunk_id, seen.joint_names, self.robot.control_dt_s, held))

    def reset(self):
        self.requests.clear()
        self.expert.reset()


@pytest.fixture(scope="module")
def cell():
    made = Cell(Protocol(image_size=SMALL).cell_config())
    yield made
    made.close()


def play(cell, seed=1, still=False, ticks=None, **changes):
    policy = Watched(ExpertPolicy(cell.robot, steps=12), still)
    loop = Loop(cell, policy, replace(Protocol(image_size=SMALL), **changes))
    return loop.episode(seed, ticks), policy.requests


def test_the_expert_sorts_and_the_same_seed_gives_the_same_episode(cell):
    first, _ = play(cell)
    again, _ = play(cell)
    assert first.phase == "sorted" and first.success and 0 < first.grasp_s < first.end_s
    assert first == replace(again, inference_s=first.inference_s)


def test_a_policy_that_does_not_move_misses_or_runs_out_of_time(cell):
    outcome, _ = play(cell, still=True, speed=0.25, limit_s=9.0)
    assert outcome.phase == "missed" and outcome.grasp_s < 0
    assert play(cell, still=True, speed=0.0, limit_s=1.0)[0].phase == "timeout"


def test_inference_is_asked_every_few_steps_and_not_before_the_last_chunk_arrived(cell):
    period = cell.robot.control_dt_s
    for delay, execute, steps in ((0.0, 3, 3), (0.0, 1, 1), (0.5, 3, 8)):
        _, requests = play(cell, execute=execute, delay_s=delay, limit_s=2.2)
        gaps = np.diff([r.observation.stamp_ns for r in requests]) / 1e9
        assert np.median(gaps) == pytest.approx(steps * period, abs=0.01)


def test_asynchronous_execution_commits_the_steps_of_the_delay_and_blocking_stands_still_meanwhile(cell):
    _, requests = play(cell, delay_s=0.2, limit_s=1.6)
    assert requests[0].committed is None and {r.committed.frozen for r in requests[2:]} == {3}
    for executor, frozen in ((False, 0), (True, 1)):  # it plans a little ahead: the first step, after 67 ms, is then as good as reached
        _, requests = play(cell, delay_s=0.03, executor=executor, limit_s=1.6)
        assert {r.committed.frozen for r in requests[2:]} == {frozen}
    assert all(r.committed is None for r in play(cell, delay_s=0.2, rtc=False, limit_s=1.0)[1])
    moved = []
    seen = []

    def watch(c):
        joints = c.joint_state()[1]
        if seen:
            moved.append(float(np.abs(joints - seen[-1])[:6].max()))
        seen.append(joints)

    _, requests = play(cell, delay_s=0.4, mode="blocking", execute=3, limit_s=3.0, ticks=watch)
    assert all(r.committed is None for r in requests)
    assert np.mean(np.array(moved) < 2e-3) > 0.4  # 0.4 s of waiting for every 0.2 s of motion


def test_through_the_executor_the_same_chunks_stay_within_the_limits_of_the_arm(cell):
    def hasty(**changes):
        policy = Watched(ExpertPolicy(cell.robot, steps=12), False)
        plain = policy.expert.infer

        def jumping(request):  # every second chunk is beside the one before
            result = plain(request)
            aside = np.where(cell.robot.gripper_mask, 0.0, 0.1 * (request.chunk_id % 2))
            return replace(result, chunk=replace(result.chunk, positions=result.chunk.positions + aside))

        policy.expert.infer = jumping
        loop = Loop(cell, policy, Protocol(image_size=SMALL, limit_s=2.5, **changes))
        return loop.episode(1)

    assert hasty().violations > 0
    assert hasty(executor=True).violations == 0


def test_through_the_executor_several_orders_are_sorted_one_after_the_other(cell):
    outcome, requests = play(cell, executor=True, orders=2)
    assert outcome.success and outcome.stops == 0 and cell.score.sorted_correct == 2
    assert len({r.instruction for r in requests if r.instruction}) == 2
    still, _ = play(cell, executor=True, orders=2, still=True, speed=0.25)
    assert still.phase == "missed"


def test_an_arm_whose_policy_falls_silent_is_stopped_and_given_back(cell):
    outcome, _ = play(cell, executor=True, delay_s=0.6, rtc=False, limit_s=4.0)
    assert outcome.stops >= 2


def test_a_leader_drives_a_cell_that_others_have_reset_as_an_episode_would(cell):
    policy, rng = Watched(ExpertPolicy(cell.robot, steps=12)), np.random.default_rng(0)
    for executor in (False, True):
        cell.reset(3, Start(belt_speed=0.0, prefill_y=-0.2))
        order_something(cell, rng)
        policy.requests.append("of before")
        moves, before = Leader(policy).begin(cell, rng, 0.06, executor), cell.joint_state()[1]
        for _ in range(15):
            moves()
        assert cell.time_s == pytest.approx(15 * cell.robot.control_dt_s, abs=0.01)
        assert np.abs(cell.joint_state()[1] - before).max() > 0.05
        committed = [r.committed for r in policy.requests]
        assert committed[0] is None and {c.frozen for c in committed[2:] if c is not None} == {1}
        assert all(committed[2:] if not executor else committed[5:]), "the executor takes the arm up softly: at first it hardly moves"
        assert (sum(cell.violations.values()) == 0) or not executor


def test_history_shows_the_past_or_the_present(cell):
    _, requests = play(cell, limit_s=0.8)
    ages = [(r.observation.stamp_ns - r.past.stamp_ns) / 1e9 for r in requests]
    assert ages[-1] == pytest.approx(0.2, abs=0.01)
    assert all(r.past is r.observation for r in play(cell, history=False, limit_s=0.4)[1])


def test_a_dropped_camera_is_missing_not_black_and_the_light_changes(cell):
    before = cell.model.light_diffuse.copy()
    _, requests = play(cell, drop="wrist", drop_at_s=0.5, light=0.5, limit_s=2.2)
    late = [r.observation for r in requests if r.observation.stamp_ns > 0.6e9]
    assert late and all(o.images["wrist"] is None and o.images["overhead"] is not None for o in late)
    assert requests[0].observation.images["wrist"] is not None
    assert np.allclose(cell.model.light_diffuse, 0.5 * before)
    play(cell, limit_s=0.1)
    assert np.allclose(cell.model.light_diffuse, before)


def test_a_changed_instruction_is_another_parcel_and_is_what_counts(cell):
    for seed in range(4):
        outcome, requests = play(cell, seed=seed, reorder=True)
        texts = list(dict.fromkeys(r.instruction for r in requests if r.instruction))
        if outcome.reordered:
            assert len(texts) == 2 and outcome.order == texts[1]
            a, b = (parse_order(t) for t in texts)
            assert (a.color, a.shape) != (b.color, b.shape)
            assert outcome.success
            return
    raise AssertionError("no instruction was changed in four episodes")


def test_the_belt_changes_its_speed_on_the_way(cell):
    speeds = []
    play(cell, change=True, limit_s=4.6, still=True, ticks=lambda c: speeds.append(c.belt.speed))
    assert abs(speeds[-1] - speeds[0]) >= 0.0199


def test_unseen_colours_keep_their_names_and_change_their_looks():
    plain, unseen = Protocol().cell_config().look, Protocol(unseen_colors=True).cell_config().look
    assert plain.red != unseen.red and plain.lamps == unseen.lamps


def test_the_past_is_the_closest_there_is(cell):
    cell.reset(0)
    history = History(0.2)
    seen = []
    for _ in range(6):
        seen.append(observe(cell, ("overhead",)))
        history.add(seen[-1])
        cell.advance(cell.robot.control_dt_s)
    assert history.past() is seen[2]


IMPOSSIBLE = [
    {"mode": "psychic"}, {"speed": 0.5}, {"execute": -1}, {"orders": 0}, {"noise_scale": 3.0}, {"mode": "blocking", "executor": True},
]  # fmt: skip


@pytest.mark.parametrize("values", IMPOSSIBLE)
def test_impossible_protocols_are_refused(values):
    with pytest.raises(ConfigError):
        Protocol(**values)


WILSON = [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (194, 200, 0.9361, 0.9862)]


@pytest.mark.parametrize("k, n, low, high", WILSON)
def test_wilson_intervals(k, n, low, high):
    assert Share(k, n).interval == pytest.approx((low, high), abs=1e-4)


def test_nothing_tried_says_nothing():
    assert Share(0, 0).interval == (0.0, 1.0) and np.isnan(Share(0, 0).value)


def test_difference_of_two_shares_has_the_published_example():
    gap, low, high = difference(Share(56, 70), Share(48, 80))  # Newcombe 1998, table II, case a, method 10
    assert (gap, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_a_campaign_goes_on_where_it_stopped_and_mixes_nothing_up(tmp_path):
    cases = [Case("expert", Protocol(image_size=SMALL, speed=v, limit_s=0.4)) for v in (0.05, 0.1)]
    whole = evaluate(cases, range(3), tmp_path / "whole")
    evaluate(cases, range(2), tmp_path / "cut")
    path = tmp_path / "cut/outcomes.jsonl"
    path.write_text(path.read_text()[:-20])  # killed while writing
    played = []
    again = evaluate(cases, range(3), tmp_path / "cut", report=lambda *_: played.append(1))
    assert len(played) == 3
    strip = [[replace(o, inference_s=0.0) for o in r.outcomes] for r in whole]
    assert strip == [[replace(o, inference_s=0.0) for o in r.outcomes] for r in again]
    assert len(read_outcomes(path)) == 6
    assert cases[0].key != cases[1].key


def test_two_processes_find_what_one_finds(tmp_path):
    cases = [Case("expert", Protocol(image_size=SMALL, limit_s=0.3))]
    one, two = (evaluate(cases, range(3), tmp_path / str(n), processes=n)[0] for n in (1, 2))
    assert [replace(o, inference_s=0.0) for o in one.outcomes] == [replace(o, inference_s=0.0) for o in two.outcomes]


def outcome(seed, phase):
    return Outcome(seed, phase, "put the red box in the left bin", 1.0, 2.0, 3, 0.01, False, 0)


def test_the_report_holds_numbers_intervals_and_endings(tmp_path):
    phases = ["sorted"] * 7 + ["missed", "wrong bin", "missed"]
    result = Result(Case("expert", Protocol(speed=0.2), label="<arm>"), tuple(outcome(i, p) for i, p in enumerate(phases)))
    write_report(tmp_path / "report.html", "Title", [result], {}, ["note"])
    page = (tmp_path / "report.html").read_text()
    assert "7 of 10" in page and "missed 2, wrong bin 1" in page and "speed=0.2" in page and "data:image/png" in page
    assert "<arm>" not in page and "&lt;arm&gt;" in page
    (row,) = json.loads((tmp_path / "report.json").read_text())
    assert row == json.loads(json.dumps(to_json([result])[0])) and row["failures"] == {"missed": 2, "wrong bin": 1}


def test_the_command_makes_a_case_of_every_combination_and_reads_lists(tmp_path):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    args = parser.parse_args(["--speed", "0.04", "0.08", "--delay-ms", "0", "200", "--mode", "blocking", "asynchronous", "--no-rtc"])
    found = [p for _, p in cli.protocols(args)]
    assert len(found) == 8 and {p.delay_s for p in found} == {0.0, 0.2} and not any(p.rtc for p in found)
    (tmp_path / "cases.yaml").write_text("- {speed: 0.1, label: fast}\n- {delay_s: 0.4}\n")
    assert [(label, p.speed) for label, p in cli.read_cases(tmp_path / "cases.yaml")] == [("fast", 0.1), ("", 0.08)]
    (tmp_path / "cases.yaml").write_text("- {pace: 0.1}\n")
    with pytest.raises(ConfigError, match="pace"):
        cli.read_cases(tmp_path / "cases.yaml")


def test_the_command_runs_to_a_page_with_a_film(tmp_path, capsys):
    (tmp_path / "cases.yaml").write_text(f"- {{image_size: {SMALL}, limit_s: 0.4, label: short}}\n")
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = ["--weights", "expert", "--cases", str(tmp_path / "cases.yaml"), "--episodes", "1", "--processes", "1", "--films", "1"]
    assert cli.run(parser.parse_args([*words, "--out", str(tmp_path / "out")])) == 0
    assert "0/1" in capsys.readouterr().out and "data:video/mp4" in (tmp_path / "out/report.html").read_text()
