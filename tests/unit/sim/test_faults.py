"""The fault injectors do what their names say, inside their window and not outside."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import CameraFrame
from internvla_a1.sim.faults import (
    CameraDrop,
    CameraFreeze,
    CameraLoss,
    EncoderGlitch,
    JointDamage,
    JointPermutation,
    JointSample,
    StampShift,
    Window,
    through,
)

ONE_TO_TWO = Window(1.0, 2.0)


def frame(seconds: float, camera: str = "side") -> CameraFrame:
    return CameraFrame(camera, round(seconds * 1e9), np.full((2, 2, 3), round(seconds * 100) % 256, np.uint8))


def sample(seconds: float) -> JointSample:
    return JointSample(round(seconds * 1e9), ("a", "b", "c"), np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]))


def test_a_frozen_camera_repeats_its_picture_under_fresh_stamps() -> None:
    freeze = CameraFreeze(ONE_TO_TWO)
    out = [freeze(frame(t)) for t in (0.9, 1.0, 1.5, 2.0)]
    assert [int(f.image[0, 0, 0]) for f in out] == [90, 100, 100, 200]
    assert [f.stamp_ns for f in out] == [round(t * 1e9) for t in (0.9, 1.0, 1.5, 2.0)]


def test_cameras_freeze_apart() -> None:
    freeze = CameraFreeze(ONE_TO_TWO)
    assert int(freeze(frame(1.0, "side")).image[0, 0, 0]) == 100
    assert int(freeze(frame(1.1, "wrist")).image[0, 0, 0]) == 110


def test_a_dropped_camera_sends_nothing_and_faults_combine() -> None:
    faults = (StampShift(ONE_TO_TWO, 0.5), CameraDrop(Window(1.9, 3.0)))
    assert through(faults, frame(0.5)) is not None
    shifted = through(faults, frame(1.2))
    assert shifted is not None and shifted.stamp_ns == 1_700_000_000
    assert through(faults, frame(1.5)) is None


def test_losses_have_the_asked_share_and_repeat_for_a_seed() -> None:
    lossy = CameraLoss(Window(0.0), 0.3)
    assert 0.25 < np.mean([lossy(frame(t / 100)) is None for t in range(1000)]) < 0.35
    one, two = CameraLoss(Window(0.0), 0.5, 4), CameraLoss(Window(0.0), 0.5, 4)
    assert [one(frame(t)) is None for t in range(50)] == [two(frame(t)) is None for t in range(50)]


def test_a_permutation_keeps_every_value_with_its_name() -> None:
    permute = JointPermutation(ONE_TO_TWO)
    orders = set()
    for _ in range(20):
        out = permute(sample(1.5))
        assert dict(zip(out.names, out.positions, strict=True)) == {"a": 1.0, "b": 2.0, "c": 3.0}
        orders.add(out.names)
    assert len(orders) > 1
    assert permute(sample(0.5)).names == ("a", "b", "c")


def test_damage_to_a_joint_state_is_what_it_is_called() -> None:
    out = {kind: JointDamage(ONE_TO_TWO, kind, joint=1)(sample(1.0)) for kind in JointDamage.KINDS}
    assert out["extra"].names == ("a", "b", "c", "unknown_joint")
    assert out["missing"].names == ("a", "c")
    assert out["duplicate"].names == ("a", "b", "c", "b")
    assert np.isnan(out["nan"].positions).tolist() == [False, True, False]
    assert (len(out["short"].names), len(out["short"].positions)) == (3, 2)
    with pytest.raises(ConfigError, match="melted"):
        JointDamage(ONE_TO_TWO, "melted")


def test_a_glitch_moves_one_joint_and_leaves_the_sample_it_was_given() -> None:
    given = sample(1.0)
    assert EncoderGlitch(ONE_TO_TWO, 2, 0.5)(given).positions.tolist() == [1.0, 2.0, 3.5]
    assert given.positions.tolist() == [1.0, 2.0, 3.0]
