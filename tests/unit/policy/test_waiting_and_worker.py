import threading

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import Observation
from internvla_a1.policy.devices import prepare_device
from internvla_a1.policy.protocol import Committed
from internvla_a1.policy.waiting import wait_chunk
from internvla_a1.policy.worker import NewestJobThread

SEEN = Observation(5, {}, {}, ("arm", "gripper"), np.array([0.3, 0.02]))


def test_waiting_without_a_plan_stays_where_the_arm_is():
    chunk = wait_chunk(SEEN, None, 0.1, 7)
    assert chunk.steps == 10 and chunk.chunk_id == 7 and chunk.stamp_ns == 5
    assert (chunk.positions == SEEN.positions).all()


def test_waiting_in_a_plan_ends_it_and_keeps_the_gripper_as_it_was_commanded():
    rows = np.array([[0.31, 0.0], [0.32, 0.0], [0.33, 0.0]])
    chunk = wait_chunk(SEEN, Committed(rows, 2), 0.1, 1)
    np.testing.assert_array_equal(chunk.positions[:3], rows)
    assert (chunk.positions[3:] == rows[-1]).all()
    assert chunk.frozen_steps == 2


def test_a_busy_thread_takes_the_newest_job_next_and_drops_those_between():
    started, go, done = threading.Event(), threading.Event(), []

    def work(job):
        started.set()
        go.wait(5)
        done.append(job)

    thread = NewestJobThread(work, lambda error: None)
    thread.offer(1)
    started.wait(5)
    for job in (2, 3, 4):
        thread.offer(job)
    started.clear()
    go.set()
    started.wait(5)
    assert thread.close(5) and done == [1, 4]


def test_after_a_failure_jobs_are_turned_down_for_a_while_and_the_error_is_told():
    told = threading.Event()
    errors = []

    def failed(error):
        errors.append(str(error))
        told.set()

    def work(job):
        raise RuntimeError("out of memory")

    thread = NewestJobThread(work, failed, retry_s=60.0)
    assert thread.offer(1)
    told.wait(5)
    assert errors == ["out of memory"]
    assert not thread.offer(2)
    assert thread.close(5)


def test_a_closed_thread_takes_no_job():
    thread = NewestJobThread(lambda job: None, lambda error: None)
    thread.close(5)
    assert not thread.offer(1)


def test_an_unknown_device_is_refused_and_auto_is_one_that_works():
    assert prepare_device("auto") in ("cpu", "cuda")
    assert prepare_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="device: asked for 'tpu9'"):
        prepare_device("tpu9")
