"""Decoding, camera states, synchronising, history and what ends up in an observation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from internvla_a1.core.clock import NS, ManualClock, nanoseconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import Observation
from internvla_a1.eval.safety_rig import demo_robot
from internvla_a1.perception.camera_buffer import CameraBuffer, CameraState
from internvla_a1.perception.config import PerceptionConfig
from internvla_a1.perception.decode import decode_compressed, decode_image, fit
from internvla_a1.perception.history import History
from internvla_a1.perception.perception import Perception

RED = np.full((4, 6, 3), (200, 30, 10), np.uint8)


def picture(answer: object) -> np.ndarray:
    assert isinstance(answer, np.ndarray), answer
    return answer


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RED),
        ("bgr8", RED[..., ::-1]),
        ("8UC3", RED[..., ::-1]),
        ("rgba8", np.dstack([RED, np.full((4, 6), 9, np.uint8)])),
        ("bgra8", np.dstack([RED[..., ::-1], np.full((4, 6), 9, np.uint8)])),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_colour_encoding_gives_the_same_rgb_with_and_without_row_padding(encoding: str, pixels: np.ndarray, padding: int) -> None:
    rows = np.ascontiguousarray(pixels).reshape(4, -1)
    padded = np.hstack([rows, np.full((4, padding), 77, np.uint8)])
    assert np.array_equal(picture(decode_image(encoding, 4, 6, padded.shape[1], padded.tobytes())), RED)


def test_mono_is_grey_in_three_channels() -> None:
    assert np.array_equal(picture(decode_image("mono8", 2, 2, 2, bytes([7] * 4))), np.full((2, 2, 3), 7, np.uint8))


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_keeps_the_colour_within_rounding(encoding: str) -> None:
    y, u, v = (int(x) for x in cv2.cvtColor(RED[:1, :1], cv2.COLOR_RGB2YUV)[0, 0])
    y = round(16 + y * 219 / 255)
    u, v = (round(128 + (x - 128) * 224 / 255 * (0.5 / 0.436 if k == 0 else 0.5 / 0.615)) for k, x in enumerate((u, v)))
    pair = (u, y, v, y) if encoding in ("yuv422", "uyvy") else (y, u, y, v)
    got = picture(decode_image(encoding, 4, 6, 12, bytes(pair * 12)))
    assert np.abs(got.astype(int) - RED).max() <= 6


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size", "said"),
    [
        ("16UC1", 4, 6, 12, 48, "possible: rgb8"),
        ("bayer_rggb8", 4, 6, 6, 24, "possible"),
        ("rgb8", 0, 6, 18, 0, "0 pixels"),
        ("rgb8", 4, 10**9, 3 * 10**9, 10, "allowed 1 to"),
        ("rgb8", 4, 6, 17, 68, "shorter than a row"),
        ("rgb8", 4, 6, 18, 71, "71 bytes"),
        ("rgb8", 4, 6, 18, 73, "73 bytes"),
        ("rgb8", 4, 6, 18, 0, "0 bytes"),
        ("uyvy", 4, 5, 10, 40, "even width"),
    ],
)
def test_an_image_that_cannot_be_is_refused_with_the_reason(
    encoding: str, height: int, width: int, step: int, size: int, said: str
) -> None:
    answer = decode_image(encoding, height, width, step, bytes(size))
    assert isinstance(answer, Refusal) and answer.reason is Reason.BAD_ENCODING and said in answer.detail


@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_a_compressed_picture_is_decoded_and_a_cut_one_refused(kind: str) -> None:
    raw = cv2.imencode(kind, cv2.resize(RED, (64, 48))[..., ::-1])[1].tobytes()
    assert np.abs(picture(decode_compressed(raw)).astype(int) - RED[0, 0]).max() < 6
    for cut in (0, 1, 10, len(raw) // 2, len(raw) - 70):
        assert isinstance(decode_compressed(raw[:cut]), Refusal)


def test_a_png_that_claims_to_be_huge_is_refused_before_it_is_decoded() -> None:
    raw = bytearray(cv2.imencode(".png", RED)[1].tobytes())
    raw[16:24] = (50_000).to_bytes(4, "big") * 2
    answer = decode_compressed(bytes(raw))
    assert isinstance(answer, Refusal) and "50000 x 50000" in answer.detail


def test_a_picture_is_fitted_with_black_around_it_the_smaller_half_on_top() -> None:
    out = fit(np.full((48, 64, 3), 100, np.uint8), 33, 32)
    assert out.shape == (33, 32, 3)
    assert not out[:4].any() and out[4:28].min() == 100 and not out[28:].any()
    assert fit(out, 33, 32) is out


def buffer_with(frames: int, config: PerceptionConfig | None = None) -> tuple[CameraBuffer, ManualClock]:
    buffer, clock = CameraBuffer("side", config or PerceptionConfig()), ManualClock(stamp_ns=1000 * NS)
    for i in range(frames):
        assert buffer.push(clock.advance(0.05).stamp_ns, RED, i, clock.now()) is None
    return buffer, clock


def test_a_camera_is_waiting_live_stale_returning_and_live_again() -> None:
    buffer, clock = buffer_with(0)
    assert buffer.state(clock.now()) is CameraState.WAITING
    buffer, clock = buffer_with(3)
    assert buffer.state(clock.now()) is CameraState.LIVE
    clock.advance(0.2)
    assert buffer.state(clock.now()) is CameraState.STALE
    seen = []
    for i in range(3):
        buffer.push(clock.advance(0.05).stamp_ns, RED, 10 + i, clock.now())
        seen.append(buffer.state(clock.now()))
    assert seen == [CameraState.RETURNING, CameraState.RETURNING, CameraState.LIVE]


def test_silence_is_measured_on_the_steady_clock_not_by_stamps() -> None:
    buffer, clock = buffer_with(3)
    for _ in range(25):
        clock.advance(0.01, stamps=False)
    assert buffer.state(clock.now()) is CameraState.STALE


def test_a_frozen_camera_has_no_frames_until_it_changes_for_three() -> None:
    buffer, clock = buffer_with(3)
    for _ in range(11):
        last = buffer.push(clock.advance(0.05).stamp_ns, RED, 99, clock.now())
    assert last is not None and last.reason is Reason.FROZEN and buffer.newest is None
    for i in range(3):
        assert buffer.state(clock.now()) is not CameraState.LIVE
        assert buffer.push(clock.advance(0.05).stamp_ns, RED, i, clock.now()) is None
    assert buffer.state(clock.now()) is CameraState.LIVE


def test_the_freeze_check_can_be_switched_off() -> None:
    buffer, clock = buffer_with(1, PerceptionConfig(frozen_s=0.0))
    for _ in range(30):
        assert buffer.push(clock.advance(0.05).stamp_ns, RED, 0, clock.now()) is None


def test_stamps_must_rise_and_not_be_ahead_and_a_jump_back_empties_the_ring() -> None:
    buffer, clock = buffer_with(3)
    now = clock.now()
    ahead = buffer.push(now.stamp_ns + nanoseconds(0.06), RED, 50, now)
    doubled = buffer.push(now.stamp_ns, RED, 51, now)
    assert ahead is not None and ahead.reason is Reason.STAMP_FUTURE
    assert doubled is not None and doubled.reason is Reason.STAMP_REPEATED
    assert buffer.dropped == 2
    back = ManualClock(now.steady_ns + NS // 50, now.stamp_ns - 10 * NS)
    assert buffer.push(back.now().stamp_ns, RED, 52, back.now()) is None
    assert buffer.newest is not None and buffer.newest.stamp_ns == back.now().stamp_ns


def fed(perception: Perception, clock: ManualClock, content: int, lag_s: float = 0.0) -> Observation | Refusal | None:
    now = clock.advance(0.05)
    names = perception.robot.joint_names
    perception.on_joint_state(names[::-1], perception.robot.array("home")[::-1] + content * 0.001, now.stamp_ns, now)
    for k, camera in enumerate(perception.cameras):
        late = nanoseconds(lag_s) if k == 1 else 0
        assert perception.on_image(camera, now.stamp_ns - late, RED, content * 10 + k, now) is None
    return perception.build(now)


def test_an_observation_has_every_camera_its_age_and_the_joints_in_the_robots_order() -> None:
    perception, clock = Perception(demo_robot()), ManualClock(stamp_ns=1000 * NS)
    for i in range(3):
        seen = fed(perception, clock, i, lag_s=0.01)
    assert isinstance(seen, Observation)
    assert seen.stamp_ns == clock.now().stamp_ns
    assert {n: i.shape for n, i in seen.images.items() if i is not None} == dict.fromkeys(perception.cameras, (224, 224, 3))
    assert sorted(seen.image_age_s.values()) == pytest.approx([0.0, 0.0, 0.01])
    assert np.allclose(seen.positions, perception.robot.array("home") + 0.002)
    assert perception.build(clock.now()) is None, "each set once"


def test_joint_positions_are_those_of_the_pictures_instant() -> None:
    perception, clock = Perception(demo_robot()), ManualClock(stamp_ns=1000 * NS)
    for i in range(3):
        fed(perception, clock, i)
    now = clock.advance(0.05)
    q, names = perception.robot.array("home"), perception.robot.joint_names
    perception.on_joint_state(names, q + 0.1, now.stamp_ns, now)
    for k, camera in enumerate(perception.cameras):
        perception.on_image(camera, now.stamp_ns - nanoseconds(0.025), RED, 100 + k, now)
    seen = perception.build(now)
    assert isinstance(seen, Observation)
    assert np.allclose(seen.positions, q + (0.002 + 0.1) / 2)
    assert abs(seen.state_age_s) == pytest.approx(0.025)


def test_without_joint_states_there_is_no_observation_and_it_says_so() -> None:
    perception, clock = Perception(demo_robot()), ManualClock(stamp_ns=1000 * NS)
    for i in range(3):
        now = clock.advance(0.05)
        for k, camera in enumerate(perception.cameras):
            perception.on_image(camera, now.stamp_ns, RED, i * 10 + k, now)
    seen = perception.build(now)
    assert isinstance(seen, Refusal) and seen.reason is Reason.JOINT_STATE_LOST
    assert perception.refusals["joint_state_lost"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_joint_state_that_is_not_finite_is_refused(bad: float) -> None:
    perception, clock = Perception(demo_robot()), ManualClock(stamp_ns=1000 * NS)
    refusal = perception.on_joint_state(perception.robot.joint_names, np.full(7, bad), clock.now().stamp_ns, clock.now())
    assert refusal is not None and refusal.reason is Reason.NON_FINITE


def test_history_gives_the_nearest_within_tolerance_and_forgets_when_time_goes_back() -> None:
    history: History[str] = History(4)
    for i, name in enumerate("abcdef"):
        history.push(i * NS, name)
    assert len(history) == 4
    assert history.nearest(int(3.4 * NS), 0.5) == (3 * NS, "d")
    assert history.nearest(0, 0.5) is None
    assert history.around(int(4.5 * NS)) == ((4 * NS, "e"), (5 * NS, "f"))
    history.push(5 * NS, "F")
    assert history.newest == (5 * NS, "F") and len(history) == 4
    history.push(1 * NS, "z")
    assert len(history) == 1 and history.newest == (NS, "z")


def test_parameters_out_of_range_are_refused_with_the_range() -> None:
    with pytest.raises(ConfigError, match=r"stale_s: 9 is outside \[0.02, 5.0\] s"):
        PerceptionConfig(stale_s=9)
    with pytest.raises(ConfigError, match="whole number"):
        PerceptionConfig(ring=2.5)  # type: ignore[arg-type]
