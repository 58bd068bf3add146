"""The demo's cell runs in real time only where the machine keeps up with it."""

from __future__ import annotations

from internvla_a1.demo.pace import SLOWEST, find_pace


class Machine:
    """Has `power` processors' worth of work for a cell that needs `need` at real time; pictures queue where that is too little."""

    def __init__(self, power: float, need: float, refuses: bool = False) -> None:
        self.power, self.need, self.refuses = power, need, refuses
        self.pace, self.asked = 1.0, []

    @property
    def busy(self) -> float:
        return min(1.0, self.pace * self.need / self.power)

    def forget_latency(self) -> None:
        pass

    def picture_ms(self) -> list[float]:
        return [20.0 / (1.001 - self.busy) ** 0.5] * 30

    def set_pace(self, factor: float) -> str:
        self.asked.append(factor)
        if self.refuses:
            return "no such parameter"
        self.pace = factor
        return ""

    def find(self) -> float:
        return find_pace(self, lambda text: None, lambda seconds: self.busy)


def test_a_machine_that_keeps_up_runs_in_real_time() -> None:
    quick = Machine(power=2.0, need=1.3)
    assert quick.find() == 1.0
    assert quick.asked == []


def test_a_slower_machine_gets_the_time_that_it_needs() -> None:
    slow = Machine(power=2.0, need=2.2)
    assert slow.find() == slow.pace == 0.64


def test_it_ends_at_the_slowest_pace() -> None:
    hopeless = Machine(power=0.2, need=2.0)
    assert hopeless.find() == hopeless.pace == SLOWEST


def test_a_cell_that_refuses_keeps_its_pace() -> None:
    assert Machine(power=1.0, need=2.0, refuses=True).find() == 1.0


def test_a_stack_without_pictures_is_not_taken_for_a_quick_one() -> None:
    dark = Machine(power=8.0, need=1.0)
    dark.picture_ms = lambda: []  # type: ignore[method-assign]
    assert dark.find() == SLOWEST
