"""One cell for the tests that only reset it: building one takes a quarter of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from internvla_a1.sim.cell import Cell
from internvla_a1.sim.config import CellConfig


@pytest.fixture(scope="session")
def shared_cell() -> Iterator[Cell]:
    cell = Cell(CellConfig())
    yield cell
    cell.close()


@pytest.fixture
def cell(shared_cell: Cell) -> Cell:
    """Freshly reset, belt at 0.08 m/s."""
    shared_cell.reset(1)
    return shared_cell
