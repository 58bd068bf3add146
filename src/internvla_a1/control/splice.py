"""The pull of the command onto the reference: how an offset, at a seam between chunks or at a takeover, is taken out.

A third-order tracker with feed-forward: no lag behind a reference that the joint can follow; small offsets decay with the
designed poles, large ones along a square-root law that the joint can brake on. It asks; the limiter grants.
"""

from __future__ import annotations

import numpy as np

from internvla_a1.core.types import FloatArray

POLES_RAD_S = (28.0, 36.0, 48.0)  # 0.05 rad to under 1 mrad in 0.3 s; slower for joints with little jerk
BRAKING_SHARE = 0.6  # of max_acceleration, used by the square-root law


def tracker_gains(cell_s: float, poles_rad_s: tuple[float, ...] = POLES_RAD_S) -> FloatArray:
    """Gains (3,) on error, its rate and its acceleration, so that with period cell_s the error decays with these poles.

    The input is the acceleration at the end of the cell, linear in between. Ackermann's formula.
    """
    h = cell_s
    step = np.array([[1.0, h, h * h / 3], [0.0, 1.0, h / 2], [0.0, 0.0, 0.0]])
    enter = np.array([[h * h / 6], [h / 2], [1.0]])
    polynomial = np.poly(np.exp(-np.asarray(poles_rad_s) * h))
    wanted = sum(c * np.linalg.matrix_power(step, 3 - i) for i, c in enumerate(polynomial))
    reach = np.hstack([enter, step @ enter, step @ step @ enter])
    return (np.linalg.inv(reach)[2] @ wanted).ravel()


class Approach:
    """Speed at which to close a distance: slope * distance near 0, then the square root law that `deceleration` can stop on.

    deceleration: any shape, positive, rad/s^2 or m/s^2. slope in 1/s.
    """

    def __init__(self, deceleration: FloatArray, slope: FloatArray | float) -> None:
        self._bend = deceleration / np.square(slope)
        self._double = 2 * deceleration
        self._shift = np.square(self._double) / (4 * np.square(slope))  # so that the two branches meet with one slope
        self._slope = slope

    def speed(self, distance: FloatArray) -> FloatArray:
        """Signed like the distance, same shape."""
        size = np.abs(distance)
        far = size * self._double
        far -= self._shift
        np.maximum(far, 0.0, out=far)
        np.sqrt(far, out=far)
        return np.copysign(np.where(size <= self._bend, self._slope * size, far), distance)
