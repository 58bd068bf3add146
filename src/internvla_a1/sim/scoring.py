"""Counting: what the order asked for against what happened."""

from __future__ import annotations

from dataclasses import dataclass

from internvla_a1.core.scene import Order, SceneObject


@dataclass(frozen=True)
class Event:
    """kind: entered, ordered, landed, sorted_correct, sorted_wrong, missed, left, fallen, speed. order: its text, empty if none."""

    time_s: float
    kind: str
    parcel: str = ""
    order: str = ""
    detail: str = ""


@dataclass
class Score:
    """SortingScore of docs/interfaces.md."""

    spawned: int = 0
    sorted_correct: int = 0
    sorted_wrong: int = 0
    missed: int = 0

    @property
    def finished(self) -> int:
        """Orders and parcels that were decided one way or the other."""
        return self.sorted_correct + self.sorted_wrong + self.missed

    @property
    def share_right(self) -> float:
        """sorted_correct of all that were decided; nan while none was."""
        return self.sorted_correct / self.finished if self.finished else float("nan")


def judge(parcel: SceneObject, bin_name: str, order: Order | None) -> str:
    """sorted_correct or sorted_wrong, by the order that held when the parcel landed."""
    right = order is not None and order.matches(parcel) and order.bin == bin_name
    return "sorted_correct" if right else "sorted_wrong"
