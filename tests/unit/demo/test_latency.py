import numpy as np
import pytest

from internvla_a1.demo.latency import ClockMap, LatencyLog, servo_lag

MS = 1_000_000


def test_each_link_is_the_time_between_its_two_ends() -> None:
    log = LatencyLog()
    log.observation(stamp_ns=5, taken_ns=100 * MS, received_ns=120 * MS)
    log.chunk(chunk_id=1, stamp_ns=5, received_ns=150 * MS, inference_s=0.025)
    log.command(chunk_id=1, received_ns=161 * MS)
    by_name = {link.name.strip(): link.p50_ms for link in log.links(motion_ms=[30.0, 34.0])}
    assert by_name == {
        "camera → observation": 20.0,
        "observation → chunk": 30.0,
        "of which inference": 25.0,
        "chunk → command": 11.0,
        "command → motion": 32.0,
        "camera → command": 61.0,
        "camera → command without the policy": 36.0,
    }


def test_only_the_first_command_of_a_chunk_counts() -> None:
    log = LatencyLog()
    log.chunk(1, 5, 100 * MS, 0.0)
    log.command(1, 110 * MS)
    log.command(1, 400 * MS)
    log.command(7, 500 * MS)  # a chunk that was not heard
    (command,) = [link for link in log.links([]) if link.name == "chunk → command"]
    assert (command.count, command.worst_ms) == (1, 10.0)


def test_a_link_that_was_never_seen_is_left_out() -> None:
    log = LatencyLog()
    log.observation(5, 0, MS)
    assert [link.name for link in log.links([])] == ["camera → observation"]


def test_the_log_does_not_grow_with_the_run() -> None:
    log = LatencyLog()
    for k in range(2000):
        log.observation(k, k, k + MS)
    log.chunk(1, 3, 10 * MS, 0.0)  # its observation is long forgotten
    assert "chunk" not in log.samples


@pytest.mark.parametrize("pace", [0.5, 1.0, 2.0])
def test_simulated_time_is_found_on_the_wall_clock_and_back(pace: float) -> None:
    clock = ClockMap(pace)
    assert clock.wall_ns(5) is None and clock.simulated_ns(5) is None
    for k in range(10):
        clock.add(simulated_ns=1000 * MS + k * 10 * MS, wall_ns=7000 * MS + round(k * 10 * MS / pace))
    assert clock.wall_ns(1034 * MS) == pytest.approx(7000 * MS + 34 * MS / pace)
    assert clock.simulated_ns(7000 * MS + round(34 * MS / pace)) == pytest.approx(1034 * MS)
    clock.add(1000 * MS, 9000 * MS)  # a clock that does not rise changes nothing
    assert clock.simulated_ns(9000 * MS) == pytest.approx(1090 * MS + (2000 * MS - 90 * MS / pace) * pace)


@pytest.mark.parametrize("lag_s", [0.02, 0.034, 0.1])
def test_the_lag_of_the_joints_is_found_to_two_milliseconds(lag_s: float) -> None:
    command_s, measured_s = np.arange(0, 8, 0.05), np.arange(0.01, 8, 0.02)

    def path(t: np.ndarray) -> np.ndarray:
        return np.column_stack([np.sin(1.3 * t), 0.001 * np.sin(9 * t)])

    lags = servo_lag(command_s, path(command_s), measured_s, path(measured_s - lag_s))
    assert len(lags) >= 5
    assert np.median(lags) == pytest.approx(1e3 * lag_s, abs=4.0)


def test_an_arm_at_rest_has_no_lag() -> None:
    t = np.arange(0, 5, 0.05)
    assert servo_lag(t, np.zeros((len(t), 2)), t, np.zeros((len(t), 2))) == []
    assert servo_lag(t[:1], np.zeros((1, 2)), t, np.zeros((len(t), 2))) == []
