"""The measure of a predicted picture: right, copied, empty, and nothing to measure."""

import numpy as np
import pytest
import torch

from internvla_a1.core.errors import DataError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.types import ActionChunk, Foresight
from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.features import Feature, camera_feature
from internvla_a1.data.reader import open_dataset
from internvla_a1.data.writer import write_dataset
from internvla_a1.eval.foresight import Belt, centroid, foresight_score, spots
from internvla_a1.policy.protocol import PolicyResult

ROBOT = load_robot(find("config/robots/demo_arm.yaml"))
SIDE, STEP, AHEAD = 48, 2, 5


def picture(t: int) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), 128, np.uint8)
    image[20:26, STEP * t : STEP * t + 6] = (217, 25, 23)
    return image


def written(root, columns, frames):
    store_episode(root / "e", Episode(columns, frames, "put the red box in the left bin"), 15, False)
    features = [Feature(k, "float32", (v.shape[1],)) for k, v in columns.items()] + [camera_feature(next(iter(frames)), SIDE, SIDE, False)]
    write_dataset(root / "set", [root / "e"], features, 15, "demo_arm")
    return open_dataset(root / "set")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    n = 16
    zeros = {k: np.zeros((n, 7), np.float32) for k in ("observation.state", "action")}
    columns = {**zeros, "privileged.belt_speed": np.full((n, 1), 0.1, np.float32)}
    frames = {"observation.images.overhead": np.stack([picture(t) for t in range(n)])}
    return written(tmp_path_factory.mktemp("foresight"), columns, frames)


class Seer:
    """Predicts the picture `shift` frames after the present one; None predicts an empty scene. A picture is its own latent."""

    robot, history_s, horizon_s = ROBOT, 0.2, AHEAD / 15

    def __init__(self, shift):
        self.shift, self.model = shift, self
        self.agreement = type("Agreement", (), {"views": {0: "overhead"}})()

    def encode_frames(self, images):
        return images

    def infer(self, request):
        seen = request.observation
        image = np.full((SIDE, SIDE, 3), 128, np.uint8)
        if self.shift is not None:
            image = picture(round((seen.stamp_ns / 1e9 - 1) * 15) + self.shift)
        latents = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).numpy()
        self.image = image
        chunk = ActionChunk(seen.stamp_ns, 1, seen.joint_names, ROBOT.control_dt_s, np.zeros((2, 7)))
        return PolicyResult(chunk, Foresight(seen.stamp_ns, 1, self.horizon_s, ("overhead",), latents))

    def decode(self, foresight):
        return Foresight(foresight.stamp_ns, 1, self.horizon_s, ("overhead",), foresight.latents, {"overhead": self.image})

    def reset(self): ...


def test_a_right_prediction_has_no_error_and_copying_has_that_of_the_motion(dataset, tmp_path):
    score = foresight_score(Seer(AHEAD), dataset, 8, sheet=tmp_path / "sheet.png")
    assert score.frames == 8 and score.lost == 0 and score.within_3_percent == 1.0
    assert score.centroid_error == 0.0 and score.copying_centroid_error == pytest.approx(STEP * AHEAD / SIDE)
    assert score.latent_ratio == 0.0 and (tmp_path / "sheet.png").stat().st_size > 100


def test_copying_scores_as_copying_and_an_empty_picture_as_lost(dataset):
    copied = foresight_score(Seer(0), dataset, 8)
    assert copied.centroid_error == copied.copying_centroid_error and copied.latent_ratio == pytest.approx(1.0)
    empty = foresight_score(Seer(None), dataset, 8)
    assert empty.lost == 8 and empty.within_3_percent == 0.0


def test_of_several_parcels_of_a_colour_the_one_that_is_meant_is_measured(tmp_path):
    """A second red parcel stands still; the prediction draws it as well, and a third that is not there."""

    def both(t, extra=False):
        image = picture(t)
        image[36:42, 30:36] = (217, 25, 23)
        if extra:
            image[2:8, 2:8] = (217, 25, 23)
        return image

    n = 16
    columns = {k: np.zeros((n, 7), np.float32) for k in ("observation.state", "action")}
    columns |= {"privileged.belt_speed": np.full((n, 1), 0.1, np.float32)}
    columns |= {"privileged.target_position": np.array([[(STEP * t + 2.5) / SIDE, 22.5 / SIDE, 0.08] for t in range(n)], np.float32)}
    frames = {"observation.images.overhead": np.stack([both(t) for t in range(n)])}
    dataset = written(tmp_path, columns, frames)

    class Both(Seer):
        def infer(self, request):
            result = super().infer(request)
            self.image = both(round((request.observation.stamp_ns / 1e9 - 1) * 15) + self.shift, extra=True)
            return result

    def project(camera, position):
        assert camera == "overhead"
        return position[:2].astype(float) + np.array([0.01, 0.0])  # cameras do not hang as they should

    belt = Belt(project, 0.06)
    score = foresight_score(Both(AHEAD), dataset, 8, belt=belt)
    assert score.frames == 8 and score.centroid_error == 0.0 and score.within_3_percent == 1.0
    assert score.copying_centroid_error == pytest.approx(STEP * AHEAD / SIDE)
    assert foresight_score(Both(AHEAD), dataset, 8).centroid_error > 0.05  # that of all pixels of the colour
    place = dataset.numbers(0, ("privileged.target_position",))["privileged.target_position"]
    place[:8, 2] = 0.2
    mixed = foresight_score(Both(AHEAD), dataset, 99, belt=belt)  # of 11 frames, three see it in the hand AHEAD later
    assert (mixed.frames, mixed.carried, mixed.carried_error) == (8, 3, 0.0)
    place[:, 1] = 0.9  # out of sight
    with pytest.raises(DataError, match="no frame with a moving parcel"):
        foresight_score(Both(AHEAD), dataset, 8, belt=belt)
    place[:, 1], place[:, 2] = 22.5 / SIDE, 0.01  # in a bin
    with pytest.raises(DataError, match="no frame with a moving parcel"):
        foresight_score(Both(AHEAD), dataset, 8, belt=belt)


def test_spots_are_the_areas_of_a_colour_without_specks():
    image = picture(3)
    image[40:46, 30:36] = (217, 25, 23)
    image[0, 0] = (217, 25, 23)
    assert np.allclose(spots(image, 0) * SIDE, [[8.5, 22.5], [32.5, 42.5]])
    assert spots(image, 2).shape == (0, 2)


def test_a_standing_belt_is_nothing_to_foresee(dataset):
    dataset.numbers(0, ("privileged.belt_speed",))["privileged.belt_speed"][:] = 0.0
    with pytest.raises(DataError, match="no frame with a moving parcel"):
        foresight_score(Seer(AHEAD), dataset, 8)


def test_the_centroid_is_in_image_widths():
    assert centroid(picture(3), 0) == pytest.approx([8.5 / SIDE, 22.5 / SIDE])
    assert centroid(picture(3), 2) is None
