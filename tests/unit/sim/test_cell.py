"""The cell as a whole: determinism, time, orders, score, pictures."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.scene import COLORS, Order
from internvla_a1.eval.foresight import spots
from internvla_a1.sim.cell import Cell, Episode
from internvla_a1.sim.config import CellConfig, load_cell_config
from internvla_a1.sim.scoring import judge
from internvla_a1.sim.trajectory import Trajectory
from internvla_a1.sim.viewer import Viewer


def wave(cell: Cell, at: float) -> Trajectory:
    """Some motion."""
    target = cell.robot.array("home")[None] + 0.2 * np.array([[1, 0.5, -0.5, 0.3, 0.1, 1, -0.1]])
    return Trajectory(cell.robot.joint_names, np.array([at]), target)


def run(cell: Cell, seed: int) -> tuple[np.ndarray, list[object]]:
    cell.reset(seed)
    cell.controller.accept(wave(cell, 1.0), 0.0)
    cell.advance(1.3)
    cell.set_belt_speed(0.15)
    cell.advance(2.0)
    return cell.data.qpos.copy(), list(cell.events)


def test_the_same_seed_gives_the_same_run_to_the_bit(cell: Cell) -> None:
    first, first_events = run(cell, 7)
    run(cell, 8)
    again, again_events = run(cell, 7)
    other, other_events = run(Cell(CellConfig()), 7)
    assert (first == again).all() and first_events == again_events
    assert (first == other).all() and first_events == other_events


def test_different_seeds_differ(cell: Cell) -> None:
    assert (run(cell, 7)[0] != run(cell, 8)[0]).any()


def test_time_does_not_depend_on_how_it_is_cut(cell: Cell) -> None:
    cell.reset(1)
    for _ in range(300):
        cell.advance(0.0033)
    first, time_s = cell.data.qpos.copy(), cell.time_s
    cell.reset(1)
    cell.advance(0.0033 * 300)
    assert time_s == pytest.approx(cell.time_s) == pytest.approx(0.99, abs=0.004)
    assert (first == cell.data.qpos).all()


def test_the_arm_follows_its_command_with_a_small_lag(cell: Cell) -> None:
    cell.controller.accept(wave(cell, 1.0), 0.0)
    cell.advance(0.7)
    names, positions, _, efforts = cell.joint_state()
    assert names == cell.robot.joint_names
    assert np.isfinite(efforts).all()
    lag = (cell.controller.sample(cell.time_s).positions - positions)[:6] / 0.2
    assert np.abs(lag[[0, 1, 2, 3, 5]]).max() < 0.05
    cell.advance(1.0)
    goal = cell.controller.sample(cell.time_s).positions
    np.testing.assert_allclose(cell.joint_state()[1], goal, atol=2e-3)


def test_the_monitor_counts_what_is_commanded_outside_the_limits(cell: Cell) -> None:
    before = dict(cell.violations)
    cell.controller.accept(wave(cell, 0.02), 0.0)
    cell.advance(0.1)
    assert cell.violations["velocity"] > before["velocity"]
    assert cell.violations["acceleration"] > before["acceleration"]
    assert cell.violations["position"] == before["position"]
    target = cell.robot.array("upper")[None] + 0.01
    cell.controller.accept(Trajectory(cell.robot.joint_names, np.array([9.0]), target), cell.time_s)
    cell.advance(9.2)
    assert cell.violations["position"] > before["position"]


def test_an_order_names_a_parcel_that_is_coming(cell: Cell) -> None:
    assert cell.order is not None
    assert any(cell.order.matches(o) and o.position[1] < 0 for o in cell.scene().objects)
    assert [e.kind for e in cell.events].count("ordered") == 1


def test_a_parcel_that_goes_by_is_missed_and_the_next_is_ordered(cell: Cell) -> None:
    cell.reset(1, Episode(belt_speed=0.25))
    cell.advance(8.0)
    assert cell.score.missed >= 1
    kinds = [e.kind for e in cell.events if e.kind in ("ordered", "missed")]
    assert kinds[:3] == ["ordered", "missed", "ordered"]


def test_an_instruction_from_outside_stays_until_it_is_taken_back(cell: Cell) -> None:
    cell.set_instruction("put the red parcel in the left bin")
    cell.advance(12.0)
    assert cell.order == Order("red", "parcel", "left")
    cell.set_instruction("")
    cell.advance(1.0)
    assert cell.order != Order("red", "parcel", "left")
    with pytest.raises(ConfigError, match="colour"):
        cell.set_instruction("put the pink box in the left bin")


def drop(cell: Cell, name: str, bin_name: str) -> None:
    """Let a parcel of the scene fall into a bin."""
    parcel = next(p for p in cell._pool.active if p.name == name)
    address = int(cell.model.joint(f"parcel_{parcel.slot}").qposadr[0])
    cell.data.qpos[address : address + 3] = cell.bins[bin_name] + [0, 0, 0.12]
    cell.data.qvel[int(cell.model.joint(f"parcel_{parcel.slot}").dofadr[0]) :][:6] = 0
    mujoco.mj_forward(cell.model, cell.data)


@pytest.mark.parametrize("right", [True, False])
def test_a_parcel_in_a_bin_counts_as_the_order_says(cell: Cell, right: bool) -> None:
    order = cell.order
    assert order is not None
    name = cell._desk.target
    drop(cell, name, order.bin if right else {"left": "right", "right": "left"}[order.bin])
    cell.advance(1.5)
    assert (cell.score.sorted_correct, cell.score.sorted_wrong) == ((1, 0) if right else (0, 1))
    assert cell.order is None or cell._desk.target != name
    assert any(e.kind == ("sorted_correct" if right else "sorted_wrong") and e.parcel == name for e in cell.events)


def test_the_bin_and_the_kind_are_judged(cell: Cell) -> None:
    parcel = cell.scene().objects[0]
    order = Order(parcel.color, parcel.shape, "left")
    assert judge(parcel, "left", order) == "sorted_correct"
    assert judge(parcel, "right", order) == "sorted_wrong"
    assert judge(parcel, "left", replace(order, color="none")) == "sorted_wrong"
    assert judge(parcel, "left", None) == "sorted_wrong"


def test_pictures_show_the_cell_and_change_with_randomisation_only(cell: Cell) -> None:
    first = {n: cell.render(n) for n in cell.cameras.names}
    assert set(first) == {"overhead", "side", "wrist"}
    assert all(p.shape == (224, 224, 3) and p.dtype == np.uint8 and p.std() > 15 for p in first.values())
    cell.reset(1)
    assert all((cell.render(n) == p).all() for n, p in first.items())
    cell.reset(1, Episode(randomise=1.0))
    assert all((cell.render(n) != p).mean() > 0.3 for n, p in first.items())
    cell.reset(1)
    assert all((cell.render(n) == p).all() for n, p in first.items())


def test_pictures_made_together_are_those_made_one_by_one(cell: Cell) -> None:
    names = tuple(camera.name for camera in cell.robot.cameras)
    before: dict[str, np.ndarray] = {}
    for _ in range(4):
        together = cell.cameras.render_together(names)
        assert tuple(together) == names
        for name, picture in together.items():
            assert np.abs(picture.astype(int) - cell.render(name)).max() <= 1
        assert not before or any((picture != before[name]).any() for name, picture in together.items())
        before = together
        cell.advance(1.0)
    with pytest.raises(ConfigError, match=r"front.*overhead"):
        cell.cameras.render_together(("front",))


def test_intrinsics_project_a_parcel_onto_its_own_colour(cell: Cell) -> None:
    info = cell.camera_info("overhead")
    picture = cell.render("overhead").astype(int)
    seen = 0
    for o in cell.scene().objects:
        frame = cell.data.body(info.frame_id)
        local = frame.xmat.reshape(3, 3).T @ (o.position - frame.xpos)
        u, v, w = info.matrix @ local
        column, row = int(u / w), int(v / w)
        if 5 < column < info.width - 5 and 5 < row < info.height - 5:
            channel = {"red": 0, "green": 1, "blue": 2}[o.color]
            assert int(picture[row, column].argmax()) == channel
            seen += 1
    assert seen >= 1


def test_an_unknown_camera_is_named_with_those_there_are(cell: Cell) -> None:
    with pytest.raises(ConfigError, match=r"front.*overhead"):
        cell.render("front")


def test_the_cell_file_is_read_and_a_wrong_key_or_value_refused(tmp_path: object) -> None:
    from pathlib import Path

    assert load_cell_config().belt.speed == 0.08
    folder = Path(str(tmp_path))
    for text, message in (
        ("belt: {sped: 0.1}", "sped.*speed"),
        ("belt: {speed: 0.9}", "0 to 0.25"),
        ("parcels: {yaw: [1]}", "list of 2"),
        ("belt: fast", "mapping"),
    ):
        path = folder / "cell.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_cell_config(path)


def test_an_episode_starts_as_it_is_told(cell: Cell) -> None:
    cell.reset(5, Episode(belt_speed=0.12, prefill_y=0.1, spacing=(0.30, 0.31), tool=(0.40, -0.2, 0.25), speed_changes=((0.5, 0.2),)))
    places = sorted((float(o.position[1]) for o in cell.scene().objects), reverse=True)
    assert places[0] == pytest.approx(0.1)
    assert np.diff(places) == pytest.approx(-0.305, abs=0.0051)
    np.testing.assert_allclose(cell.tool_position(), [0.40, -0.2, 0.25], atol=1e-9)
    assert cell.belt.speed == pytest.approx(0.12)
    cell.advance(0.4)
    assert cell.belt.speed == pytest.approx(0.12, abs=0.002)
    cell.advance(0.6)
    assert cell.belt.speed == pytest.approx(0.2, abs=0.002)


def test_a_start_that_the_arm_cannot_take_is_refused(cell: Cell) -> None:
    with pytest.raises(ConfigError, match="limits"):
        cell.reset(5, Episode(tool=(-0.4, 0.01, 0.3)))
    with pytest.raises(ConfigError, match="reach"):
        cell.reset(5, Episode(tool=(0.9, 0.0, 0.3)))


def test_on_a_standing_belt_only_parcels_within_reach_are_ordered(cell: Cell) -> None:
    cell.reset(6, Episode(belt_speed=0.0, prefill_y=-0.5))
    cell.advance(1.0)
    assert cell.order is None
    cell.set_belt_speed(0.1)
    cell.advance(1.0)
    assert cell.order is not None


def test_an_order_passes_on_to_a_twin_that_is_on_its_way_into_the_bin(cell: Cell) -> None:
    """Two parcels fit the order; the arm took the one that the desk did not have in mind."""
    desk = cell._desk
    scene = cell.scene()
    order = cell.order
    assert order is not None
    target = next(o for o in scene.objects if o.name == desk.target)
    gone = replace(target, position=np.array([0.48, 0.6, target.position[2]]))
    twin = replace(target, name="twin", position=np.array([0.14, -0.4, 0.13]))
    assert not desk.passed(replace(scene, objects=(gone, twin)), set())
    assert desk.target == "twin"
    desk.target = target.name
    assert desk.passed(replace(scene, objects=(gone, twin)), {"twin"})
    assert desk.passed(replace(scene, objects=(gone,)), set())


@pytest.mark.parametrize(("display", "problem"), [("", "DISPLAY"), (":77", "no window system answers at DISPLAY=:77")])
def test_without_a_display_a_viewer_is_refused_and_the_process_lives_on(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, display: str, problem: str
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match=problem):
        Viewer(cell)


def test_a_parcel_is_seen_where_the_camera_projects_it(cell: Cell) -> None:
    cell.reset(3)
    cell.advance(1.0)
    picture = cell.render("overhead")
    for parcel in cell.scene().objects:
        where = cell.cameras.project("overhead", parcel.position)
        seen = spots(picture, list(COLORS).index(parcel.color))
        if (where > 0.05).all() and (where < 0.95).all():
            assert np.linalg.norm(seen - where, axis=1).min() < 0.02
            return
    pytest.fail("no parcel in sight")
