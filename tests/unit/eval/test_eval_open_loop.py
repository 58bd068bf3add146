"""Open loop: errors in robot units, per group of joints, without the steps that were never recorded."""

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.types import ActionChunk
from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.features import Feature, camera_feature
from internvla_a1.data.reader import open_dataset
from internvla_a1.data.writer import write_dataset
from internvla_a1.eval.open_loop import joint_groups, open_loop
from internvla_a1.policy.protocol import PolicyResult

ROBOT = load_robot(find("config/robots/demo_arm.yaml"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("open")
    n = 9
    action = np.arange(n)[:, None] + np.zeros((n, 7))
    columns = {"observation.state": action.astype(np.float32) - 1, "action": action.astype(np.float32)}
    frames = {f"observation.images.{c}": np.zeros((n, 8, 8, 3), np.uint8) for c in ROBOT.camera_names}
    store_episode(root / "e", Episode(columns, frames, "put the red box in the left bin"), 15, False)
    features = [Feature(k, "float32", (7,)) for k in columns] + [camera_feature(c, 8, 8, False) for c in frames]
    write_dataset(root / "set", [root / "e"], features, 15, "demo_arm")
    return open_dataset(root / "set")


class Ahead:
    """Knows the ramp of the data set, and is `wrong` by a constant in the arm and twice that in the gripper."""

    robot, history_s, horizon_s, needs_scene = ROBOT, 0.2, 0.0, False

    def __init__(self, wrong):
        self.wrong = wrong

    def infer(self, request):
        seen = request.observation
        ramp = seen.positions[0] + 1 + np.arange(5.0)[:, None] + np.zeros((5, 7))
        ramp[:, :6] += self.wrong
        ramp[:, 6] += 2 * self.wrong
        assert request.past.stamp_ns <= seen.stamp_ns and set(seen.images) == set(ROBOT.camera_names)
        return PolicyResult(ActionChunk(seen.stamp_ns, 1, seen.joint_names, ROBOT.control_dt_s, ramp))

    def reset(self): ...


def test_perfect_predictions_have_no_error_even_at_the_end_of_the_episode(dataset):
    score = open_loop(Ahead(0.0), dataset, 9)
    assert (score.samples, score.mse, score.mae) == (9, 0.0, 0.0)


def test_errors_are_told_apart_by_joint_group(dataset):
    score = open_loop(Ahead(0.1), dataset, 5)
    assert score.by_group["arm"] == pytest.approx((0.01, 0.1)) and score.by_group["gripper"] == pytest.approx((0.04, 0.2))
    assert score.mae == pytest.approx(0.8 / 7) and score.mae_by_step == pytest.approx(np.full(5, 0.8 / 7))


def test_arms_have_sides_where_their_joints_say_so():
    groups = joint_groups(("left_j1", "right_j1", "left_gripper"), np.array([False, False, True]))
    assert {k: v.tolist() for k, v in groups.items()} == {
        "left arm": [True, False, False], "right arm": [False, True, False], "left gripper": [False, False, True],
    }  # fmt: skip


def test_a_data_set_of_another_robot_is_refused(dataset):
    other = Ahead(0.0)
    other.robot = load_robot(find("config/robots/agibot_genie1.yaml"))
    with pytest.raises(ConfigError, match="cameras"):
        open_loop(other, dataset, 1)
