"""The belt runs for ever and the stream does not end."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.sim.cell import Cell, Episode


def test_a_wrap_of_the_slab_leaves_the_parcels_undisturbed(cell: Cell) -> None:
    cell.reset(2, Episode(belt_speed=0.2))
    name = next(o.name for o in cell.scene().objects)
    slab = int(cell.model.joint("belt").qposadr[0])
    wraps, last, heights, speeds = 0, cell.data.qpos[slab], [], []
    start = next(o.position for o in cell.scene().objects if o.name == name)
    for _ in range(600):
        cell.advance(0.004)
        wraps += int(cell.data.qpos[slab] < last)
        last = cell.data.qpos[slab]
        parcel = next(o for o in cell.scene().objects if o.name == name)
        heights.append(parcel.position[2])
        speeds.append(parcel.velocity[1])
    assert wraps >= 2
    assert np.ptp(heights) < 0.001
    assert np.abs(np.array(speeds[50:]) - 0.2).max() < 0.005
    assert parcel.position[1] - start[1] == pytest.approx(0.2 * 2.4, abs=0.005)


def test_a_speed_change_ramps_and_the_parcels_follow(cell: Cell) -> None:
    cell.set_belt_speed(0.2)
    cell.advance(0.1)
    assert 0.08 < cell.belt.speed < 0.13
    cell.advance(0.5)
    assert cell.belt.speed == pytest.approx(0.2, abs=0.002)
    assert all(o.velocity[1] == pytest.approx(0.2, abs=0.01) for o in cell.scene().objects)


@pytest.mark.parametrize("speed", [-0.1, 0.3, float("nan")])
def test_a_speed_out_of_range_is_refused_with_the_range(cell: Cell, speed: float) -> None:
    with pytest.raises(ConfigError, match=r"0 to 0\.25"):
        cell.set_belt_speed(speed)


def test_parcels_are_recycled_without_end_from_a_fixed_pool(cell: Cell) -> None:
    cell.reset(3, Episode(belt_speed=0.25))
    cell.advance(30.0)
    kinds = [e.kind for e in cell.events]
    assert cell.score.spawned > 2 * cell.config.parcels.pool
    assert kinds.count("left") > cell.config.parcels.pool
    assert kinds.count("fallen") == 0
    numbers = [int(e.parcel.split("_")[1]) for e in cell.events if e.kind == "entered"]
    assert numbers == list(range(1, cell.score.spawned + 1))


def test_parcels_stand_still_on_a_belt_that_stands_still(cell: Cell) -> None:
    cell.reset(4, Episode(belt_speed=0.0))
    before = [o.position for o in cell.scene().objects]
    cell.advance(5.0)
    np.testing.assert_allclose([o.position for o in cell.scene().objects], before, atol=1e-3)
