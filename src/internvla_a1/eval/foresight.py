"""Is the predicted future right? Where the instructed colour will be, and how close the latents come, against copying the present."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.core.types import FloatArray, ImageArray
from internvla_a1.data.features import SPEED_KEY, TARGET_KEY
from internvla_a1.data.images import fitted, to_png
from internvla_a1.data.reader import Dataset
from internvla_a1.eval.colors import color_mask, color_of
from internvla_a1.eval.open_loop import features_for, observation_at
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import PolicyRequest
from internvla_a1.policy.transforms import to_float

LEAST_PIXELS = 4
IN_SIGHT_PIXELS = 9  # a parcel that is more than half hidden behind the fingers has fewer
NEAR = 0.05  # picture widths: cameras hang a little otherwise in every episode, and a projected centre is none of a seen surface
LIFTED = 0.05  # m over the belt, of a parcel's centre
SLOWEST = 0.02  # m/s, of a belt that moves


@dataclass(frozen=True)
class Belt:
    """The belt of the cell. project: (camera, position (3,) in m) -> (x, y) in picture widths; top: height of its surface, m."""

    project: Callable[[str, FloatArray], FloatArray]
    top: float


@dataclass(frozen=True)
class ForesightScore:
    """Over `frames` frames, main view. Centroid errors are medians in image widths; latent errors are means over all views.

    The centroid is that of the instructed parcel on the belt where the data set says where it is, else that of all pixels of its colour.
    carried, carried_error: the same for parcels in the hand, which count among no other centroids.

    copying: the same for a prediction that repeats the present. lost: predictions in which the colour is nowhere to be found.
    """

    frames: int
    centroid_error: float
    copying_centroid_error: float
    within_3_percent: float
    latent_mse: float
    copying_latent_mse: float
    lost: int
    carried: int = 0
    carried_error: float | None = None

    @property
    def latent_ratio(self) -> float:
        """Error of the predicted latents over that of copying; below 1 is better than copying."""
        return self.latent_mse / max(self.copying_latent_mse, 1e-12)


@dataclass(frozen=True)
class _Frame:
    now: ImageArray
    real: ImageArray
    predicted: ImageArray
    color: int
    place: FloatArray | None  # where the instructed parcel really is a horizon later, picture widths
    carried: bool  # in the hand by then
    latent_mse: float
    copying_mse: float

    def centroids(self) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
        """Of the instructed parcel in the real picture, the present and the predicted one; None where it is not to be seen.

        Several parcels have the same colour: the real one is the spot where it is known to be, the two others that nearest to it.
        """
        if self.place is None:
            real, now, predicted = (centroid(picture, self.color) for picture in (self.real, self.now, self.predicted))
            return real, now, predicted
        real = _nearest(spots(self.real, self.color, IN_SIGHT_PIXELS), self.place)
        if real is None or np.linalg.norm(real - self.place) > NEAR:
            return None, None, None
        return real, _nearest(spots(self.now, self.color), real), _nearest(spots(self.predicted, self.color), real)


def foresight_score(
    policy: NetworkPolicy, dataset: Dataset, frames: int, seed: int = 0, sheet: Path | None = None, belt: Belt | None = None
) -> ForesightScore:
    """Ask at random moments whose instructed colour moves and is in sight a horizon later. sheet: PNG of now, predicted, real.

    Pictures are compared at the size that the image tokenizer sees. belt: for data sets with the column TARGET_KEY.
    """
    errors: list[float] = []
    copying: list[float] = []
    carried: list[float] = []
    latent: list[tuple[float, float]] = []
    rows: list[ImageArray] = []
    lost = 0
    for frame in _frames(policy, dataset, seed, belt):
        real, now, predicted = frame.centroids()
        if real is None or now is None:
            continue
        latent.append((frame.latent_mse, frame.copying_mse))
        error = float(np.linalg.norm(predicted - real)) if predicted is not None else 1.0
        if frame.carried:
            carried.append(error)
            continue
        errors.append(error)
        copying.append(float(np.linalg.norm(now - real)))
        lost += predicted is None
        if len(rows) < 12:
            rows.append(np.concatenate([frame.now, frame.predicted, frame.real], 1))
        if len(errors) == frames:
            break
    if not errors:
        raise DataError(f"{dataset.root}: no frame with a moving parcel of the instructed colour in the main view")
    if sheet is not None:
        sheet.write_bytes(to_png(np.ascontiguousarray(np.concatenate(rows, 0))))
    predicted_mse, copying_mse = np.mean(latent, 0)
    return ForesightScore(
        len(errors), float(np.median(errors)), float(np.median(copying)), float(np.mean(np.array(errors) <= 0.03)),
        float(predicted_mse), float(copying_mse), lost, len(carried), float(np.median(carried)) if carried else None,
    )  # fmt: skip


def _pixels(image: ImageArray, color: int) -> np.ndarray:
    return color_mask(to_float(image)[None, None], torch.tensor([color]))[0, 0].numpy()


def centroid(image: ImageArray, color: int) -> FloatArray | None:
    """(x, y) of all pixels of a colour in image widths; None where there are too few."""
    mask = _pixels(image, color)
    if mask.sum() < LEAST_PIXELS:
        return None
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) / image.shape[1]


def spots(image: ImageArray, color: int, least: int = LEAST_PIXELS) -> FloatArray:
    """(n, 2): centroids (x, y) of the connected areas of a colour of at least so many pixels, in image widths."""
    _, _, stats, centres = cv2.connectedComponentsWithStats(_pixels(image, color).astype(np.uint8), connectivity=8)
    return centres[1:][stats[1:, cv2.CC_STAT_AREA] >= least] / image.shape[1]


def _nearest(places: FloatArray, wanted: FloatArray) -> FloatArray | None:
    return min(places, key=lambda place: float(np.linalg.norm(place - wanted)), default=None)


def _frames(policy: NetworkPolicy, dataset: Dataset, seed: int, belt: Belt | None) -> Iterator[_Frame]:
    robot, fps = policy.robot, dataset.info.fps
    ahead, back = round(policy.horizon_s * fps), round(policy.history_s * fps)
    if ahead < 1:
        raise ConfigError("this policy foresees nothing")
    names = tuple(policy.agreement.views.values())
    state_keys, _, cameras = features_for(dataset, robot.embodiment, tuple(c.name for c in robot.cameras))
    cameras = {name: key for name, key in cameras.items() if name in names}
    starts = np.cumsum([0, *(e.length for e in dataset.episodes)])
    for index in np.random.default_rng(seed).permutation(starts[-1]):
        e = int(np.searchsorted(starts, index, "right")) - 1
        t = int(index - starts[e])
        color = color_of(dataset.instruction(e, t))
        if color < 0 or t + ahead >= dataset.episodes[e].length or not _moves(dataset, e, t):
            continue
        if dataset.instruction(e, t + ahead) != dataset.instruction(e, t):
            continue  # another parcel is meant by then
        place, carried = None, False
        if belt is not None and TARGET_KEY in dataset.info.features:
            target = dataset.numbers(e, (TARGET_KEY,))[TARGET_KEY][t + ahead]
            if target[2] < belt.top:
                continue  # in a bin, where nothing moves, or not known
            place, carried = belt.project(names[0], target), bool(target[2] > belt.top + LIFTED)
        state = np.concatenate([dataset.numbers(e, state_keys)[k][t] for k in state_keys]).astype(np.float64)
        seen, past, later = (observation_at(dataset, e, k, cameras, robot.joint_names, state) for k in (t, max(0, t - back), t + ahead))
        before = np.concatenate([dataset.numbers(e, state_keys)[k][max(0, t - 1)] for k in state_keys]).astype(np.float64)
        previous = replace(seen, positions=before)
        policy.reset()
        result = policy.infer(PolicyRequest(seen, past, dataset.instruction(e, t), int(index), previous=previous, seed=int(index)))
        if result.foresight is None:
            raise ConfigError("this policy was built without foresight")
        real, present = (_latents(policy, [o.images[c] for c in result.foresight.cameras]) for o in (later, seen))
        pictures = policy.decode(result.foresight).images
        predicted = torch.from_numpy(result.foresight.latents)
        main = names[0]
        now, then = seen.images[main], later.images[main]
        assert now is not None and then is not None  # every camera is read from the data set
        side = pictures[main].shape[0]
        yield _Frame(
            fitted(now, side), fitted(then, side), pictures[main], color, place, carried,
            float((predicted - real).square().mean()), float((present - real).square().mean()),
        )  # fmt: skip


def _moves(dataset: Dataset, episode: int, frame: int) -> bool:
    """Whether the belt runs; true where the data do not say."""
    if SPEED_KEY not in dataset.info.features:
        return True
    return float(dataset.numbers(episode, (SPEED_KEY,))[SPEED_KEY][frame, 0]) >= SLOWEST


@torch.no_grad()
def _latents(policy: NetworkPolicy, images: list[ImageArray | None]) -> Tensor:
    present = [to_float(image) for image in images if image is not None]
    return policy.model.encode_frames(torch.stack(present)).cpu()
