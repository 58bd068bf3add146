"""The order desk: announces which parcel goes into which bin, follows it to its end, and takes orders from outside."""

from __future__ import annotations

import numpy as np

from internvla_a1.core.scene import BINS, Order, Scene, SceneObject, parse_order
from internvla_a1.sim.config import Orders

HELD_HEIGHT = 0.06  # a parcel whose centre is this far above its place on the belt is in the gripper
BELT_HALF = 0.15  # and one that is further from the middle of the belt is not on it, m


class OrderDesk:
    """One order at a time. `order` is None while no parcel is coming."""

    def __init__(self, settings: Orders, belt: tuple[float, float]) -> None:
        """belt: x of its middle and height of its top, m."""
        self._settings = settings
        self._belt_x, self._belt_top = belt
        self._rng = np.random.default_rng(0)
        self.order: Order | None = None
        self.target = ""  # name of the parcel that the desk has in mind
        self.external = False

    def restart(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.order, self.target, self.external = None, "", False

    def instruct(self, text: str) -> None:
        """An order from outside stays until the next one; an empty text gives the desk back. Raises ConfigError if not understood."""
        if not text.strip():
            self.order, self.target, self.external = None, "", False
            return
        self.order, self.target, self.external = parse_order(text), "", True

    def finished(self) -> None:
        """The order is sorted or missed."""
        self.target = ""
        if not self.external:
            self.order = None

    def update(self, scene: Scene) -> bool:
        """Choose the next order or target where there is none. True when a new order was announced."""
        if self.target:
            return False
        coming = [o for o in scene.objects if self._coming(o, scene.belt_speed)]
        if self.external and self.order is not None:
            coming = [o for o in coming if self.order.matches(o)]
        if not coming:
            return False
        parcel = max(coming, key=lambda o: o.position[1])
        self.target = parcel.name
        if self.external:
            return False
        shape = "parcel" if self._rng.random() < self._settings.any_shape else parcel.shape
        self.order = Order(parcel.color, shape, BINS[int(self._rng.integers(len(BINS)))])
        return True

    def passed(self, scene: Scene, settled: set[str]) -> bool:
        """Whether the order went by unserved: its parcel is further downstream than the arm reaches.

        While another parcel of the same kind is in the gripper or falling into a bin, the order passes on to that one.
        settled: names of the parcels that lie in bins, decided earlier.
        """
        target = next((o for o in scene.objects if o.name == self.target), None)
        if target is None or self._off_belt(target) or target.position[1] < self._settings.missed_y:
            return False
        for o in scene.objects:
            if self.order is not None and self.order.matches(o) and o.name not in settled and self._off_belt(o):
                self.target = o.name
                return False
        return True

    def _off_belt(self, o: SceneObject) -> bool:
        """In the gripper, in the air or in a bin."""
        height = o.position[2] - self._belt_top - o.size[2] / 2
        aside = abs(o.position[0] - self._belt_x) > BELT_HALF
        return bool(aside or height > HELD_HEIGHT or height < -0.02)

    def _coming(self, o: SceneObject, speed: float) -> bool:
        s = self._settings
        on_belt = abs(o.position[2] - self._belt_top - o.size[2] / 2) < 0.02
        arrives = speed > 0.005 or o.position[1] > s.reach_y
        return bool(on_belt and arrives and o.position[1] < s.announce_y - speed * s.lead_s)
