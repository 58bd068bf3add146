"""One fade for every switch."""

from __future__ import annotations

import numpy as np

from internvla_a1.core.types import FloatArray


def smooth(share: FloatArray) -> FloatArray:
    """0..1 to 0..1 with no velocity and no acceleration at the ends; held outside."""
    s = np.clip(share, 0.0, 1.0)
    return s * s * s * (s * (6.0 * s - 15.0) + 10.0)
