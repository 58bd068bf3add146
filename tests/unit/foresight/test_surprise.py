import numpy as np
import pytest

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import Foresight, Observation
from internvla_a1.foresight.surprise import SurpriseMeter, blocks, difference

DT, HORIZON = 0.2, 1.0
RNG = np.random.default_rng(0)
BACKDROP = RNG.integers(80, 120, (224, 224, 3)).astype(np.uint8)


def picture(t, speed=30.0, intruder=False, gain=1.0):
    """A parcel that crosses the picture; sometimes a hand."""
    image = BACKDROP.copy()
    x = int(20 + speed * t) % 190
    image[100:120, x : x + 20] = (220, 30, 30)
    if intruder:
        image[40:200, 120:200] = (200, 170, 150)
    return np.clip(image * gain, 0, 255).astype(np.uint8)


def observation(t, **kwargs):
    return Observation(nanoseconds(100 + t), {"overhead": picture(t, **kwargs)}, {"overhead": 0.0}, ("j",), np.zeros(1))


def foresight(t, image):
    return Foresight(nanoseconds(100 + t), 1, HORIZON, ("overhead",), np.zeros((1, 1, 1, 1), np.float32), {"overhead": image})


def run(meter, seconds, predict, **kwargs):
    scores = []
    for k in range(round(seconds / DT)):
        t = k * DT
        result = meter.observe(observation(t, **{key: value(t) for key, value in kwargs.items()}))
        if result is not None:
            scores.append((t, result.score))
        meter.predict(foresight(t, predict(t)))
    return scores


def test_a_right_prediction_scores_near_zero():
    scores = run(SurpriseMeter(), 12, lambda t: picture(t + HORIZON))
    assert len(scores) > 40
    assert max(score for _, score in scores) < 0.1


def test_predicting_that_nothing_changes_scores_near_one_once_the_prediction_has_been_better():
    meter = SurpriseMeter()
    run(meter, 6, lambda t: picture(t + HORIZON))
    late = [s for t, s in _continue(meter, 6.0, 3.0, lambda t: picture(t)) if t > 6 + HORIZON]
    assert 0.6 < np.median(late) < 1.2


def test_predictions_that_are_always_noise_do_not_pass_for_right():
    noise = np.random.default_rng(1)
    scores = run(SurpriseMeter(), 8, lambda t: noise.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    assert min(score for _, score in scores) > 0.3


def test_an_intruder_scores_above_one_although_it_spoils_both_guesses():
    meter = SurpriseMeter()
    run(meter, 8, lambda t: picture(t + HORIZON))
    score = meter.observe(observation(8.0, intruder=True)).score
    assert score > 1.3


def test_a_change_of_light_is_not_a_surprise():
    meter = SurpriseMeter()
    run(meter, 8, lambda t: picture(t + HORIZON))
    dark = meter.observe(observation(8.0, gain=0.8)).score
    assert dark < 0.3


def test_the_blur_of_the_decoder_is_not_a_surprise():
    import cv2

    scores = run(SurpriseMeter(), 10, lambda t: cv2.GaussianBlur(picture(t + HORIZON), (13, 13), 0))
    assert max(score for _, score in scores[5:]) < 0.25


def test_the_comparison_is_made_at_the_predicted_instant_and_not_later():
    meter = SurpriseMeter(tolerance_s=0.05)
    meter.observe(observation(0.0))
    assert meter.predict(foresight(0.0, picture(HORIZON)))
    assert meter.observe(observation(0.8)) is None
    assert meter.observe(observation(1.2)) is None, "the observation for 1.0 s never came"


def test_a_prediction_without_images_or_from_an_unknown_observation_is_left_out():
    meter = SurpriseMeter()
    meter.observe(observation(0.0))
    assert not meter.predict(Foresight(nanoseconds(100), 1, HORIZON, ("overhead",), np.zeros((1, 1, 1, 1), np.float32)))
    assert not meter.predict(foresight(-5.0, picture(0)))


def test_a_view_that_is_missing_now_is_left_out_of_the_score():
    meter = SurpriseMeter()
    meter.observe(observation(0.0))
    meter.predict(foresight(0.0, picture(HORIZON)))
    gone = Observation(nanoseconds(100 + HORIZON), {"overhead": None}, {"overhead": 0.0}, ("j",), np.zeros(1))
    assert meter.observe(gone) is None


def test_memory_stays_bounded():
    meter = SurpriseMeter(keep_s=1.0)
    run(meter, 20, lambda t: picture(t + HORIZON))
    assert len(meter._seen) <= 7 and len(meter._pending) <= 7


def test_the_difference_of_equal_pictures_is_zero_and_it_is_nearly_symmetric():
    a, b = blocks(picture(0)), blocks(picture(2))
    assert difference(a, a) == 0.0
    assert difference(a, b) == pytest.approx(difference(b, a), rel=0.1)


def _continue(meter, begin, seconds, predict):
    scores = []
    for k in range(round(seconds / DT)):
        t = begin + k * DT
        result = meter.observe(observation(t))
        if result is not None:
            scores.append((t, result.score))
        meter.predict(foresight(t, predict(t)))
    return scores
