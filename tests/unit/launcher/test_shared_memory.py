import fcntl
import os
import time
from pathlib import Path

import pytest

from internvla_a1.launcher import shared_memory


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared_memory, "SHM", tmp_path)
    for name in ("fastrtps_0a1b", "fastrtps_0a1b_el", "fastrtps_port7411", "fastrtps_port7411_el", "sem.fastrtps_port7411_mutex", "other"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_segment_goes_with_its_lock_and_a_port_with_its_semaphore(shm: Path) -> None:
    removed = shared_memory.remove_leftovers(["fastrtps_0a1b", "fastrtps_port7411_el"])
    assert sorted(removed) == [
        "fastrtps_0a1b",
        "fastrtps_0a1b_el",
        "fastrtps_port7411",
        "fastrtps_port7411_el",
        "sem.fastrtps_port7411_mutex",
    ]
    assert [p.name for p in shm.iterdir()] == ["other"]


def test_what_somebody_holds_locked_stays(shm: Path) -> None:
    with (shm / "fastrtps_port7411_el").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert shared_memory.remove_leftovers(["fastrtps_port7411"]) == []
        assert shared_memory.recent_orphans(time.time() - 60) == set()  # outside /dev/shm nothing counts as an orphan
    assert (shm / "fastrtps_port7411").exists()


def test_nothing_that_was_not_asked_for_goes(shm: Path) -> None:
    assert shared_memory.remove_leftovers([]) == []
    assert len(list(shm.iterdir())) == 6
    assert shared_memory.mapped(os.getpid()) == set()
