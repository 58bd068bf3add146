import numpy as np
import pytest

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import ActionChunk
from internvla_a1.foresight.ghost import GhostPlayer

START = 5_000_000_000


def chunk(values, dt=0.1):
    return ActionChunk(1, 1, ("j",), dt, np.array(values, dtype=float)[:, None])


def at(player, s):
    return float(player.positions(START + nanoseconds(s))[0])


def test_the_ghost_starts_where_the_arm_was_and_ends_at_the_last_step():
    player = GhostPlayer(pause_s=0.5)
    player.show(chunk([1.0, 2.0]), start=np.array([0.0]))
    assert at(player, 0.0) == pytest.approx(0.0)
    assert at(player, 0.05) == pytest.approx(0.5)
    assert at(player, 0.15) == pytest.approx(1.5)
    assert at(player, 0.2) == pytest.approx(2.0)
    assert at(player, 0.6) == pytest.approx(2.0)


def test_the_ghost_begins_again_after_its_pause():
    player = GhostPlayer(pause_s=0.5)
    player.show(chunk([1.0, 2.0]), start=np.array([0.0]))
    at(player, 0.0)
    assert at(player, 0.75) == pytest.approx(0.5)


def test_a_new_chunk_does_not_restart_the_loop():
    player = GhostPlayer(pause_s=0.0)
    player.show(chunk([1.0, 2.0, 3.0]))
    at(player, 0.0)
    player.show(chunk([11.0, 12.0, 13.0]))
    assert at(player, 0.2) == pytest.approx(12.0)


def test_without_a_chunk_there_is_no_ghost():
    player = GhostPlayer()
    assert player.positions(START) is None
    player.show(chunk([1.0]))
    player.clear()
    assert player.positions(START) is None
