"""Cameras and joint states in, one synchronised observation out: the whole of the perception node's work, without ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from internvla_a1.core.clock import Now, nanoseconds, seconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.joints import JointMatcher
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray, ImageArray, Observation
from internvla_a1.perception.camera_buffer import CameraBuffer, CameraState
from internvla_a1.perception.config import PerceptionConfig
from internvla_a1.perception.decode import fit
from internvla_a1.perception.history import History
from internvla_a1.perception.synchroniser import Synchroniser

_STATES = 512  # joint states kept: half a second at 1 kHz


class Perception:
    """Feed it messages as they come; ask for the observation whenever one may be ready."""

    def __init__(self, robot: RobotSpec, config: PerceptionConfig | None = None, optional: Iterable[str] = ()) -> None:
        """optional: cameras whose view may be missing (None) while they are not live. Raises ConfigError for an unknown one."""
        unknown = sorted(set(optional) - set(robot.camera_names))
        if unknown:
            raise ConfigError.asked("optional camera", unknown[0], robot.camera_names)
        self.config = config = config or PerceptionConfig()
        self.robot = robot
        self.cameras = {c.name: CameraBuffer(c.name, config) for c in robot.cameras}
        self.refusals: Counter[str] = Counter()
        self._synchroniser = Synchroniser(self.cameras.values(), config, optional)
        self._matcher = JointMatcher(robot.joint_names)
        self._states: History[FloatArray] = History(_STATES)

    def on_image(self, camera: str, stamp_ns: int, image: ImageArray | Refusal, content: int, now: Now) -> Refusal | None:
        """A picture as decode.py gave it; content: its content_hash."""
        if isinstance(image, Refusal):
            return self._count(image)
        refusal = self.cameras[camera].push(stamp_ns, image, content, now)
        return None if refusal is None else self._count(refusal)

    def on_joint_state(self, names: Sequence[str], positions: ArrayLike, stamp_ns: int, now: Now) -> Refusal | None:
        """A joint state in any order, extra joints allowed; rad or m."""
        order = self._matcher.order(names, extra_allowed=True)
        if isinstance(order, Refusal):
            return self._count(order)
        try:
            q = np.asarray(positions, dtype=np.float64)
        except (TypeError, ValueError) as error:
            return self._count(Refusal(Reason.WRONG_SHAPE, f"not numbers: {error}"[:200]))
        if q.shape != (len(names),):
            return self._count(Refusal(Reason.WRONG_SHAPE, f"{q.shape} positions for {len(names)} names"))
        if not np.isfinite(q[order]).all():
            return self._count(Refusal(Reason.NON_FINITE, "joint state"))
        tolerance = nanoseconds(self.config.future_tolerance_s)
        if stamp_ns - now.stamp_ns > tolerance:
            return self._count(Refusal(Reason.STAMP_FUTURE, f"joint state {seconds(stamp_ns - now.stamp_ns):.3f} s ahead of this clock"))
        held = self._states.newest
        if held is not None and stamp_ns <= held[0] and held[0] - now.stamp_ns <= tolerance:
            return self._count(Refusal(Reason.STAMP_REPEATED, f"joint state {seconds(held[0] - stamp_ns):.4f} s older than the one held"))
        self._states.push(stamp_ns, q[order])
        return None

    def build(self, now: Now) -> Observation | Refusal | None:
        """The next observation, or what is in the way, or None when nothing newer came."""
        frames = self._synchroniser.match(now)
        if frames is None or isinstance(frames, Refusal):
            return frames if frames is None else self._count(frames)
        stamp = max(f.stamp_ns for f in frames.values())
        state = self._state_at(stamp)
        if isinstance(state, Refusal):
            return self._count(state)
        positions, age = state
        images: dict[str, ImageArray | None] = dict.fromkeys(self.cameras)
        images.update({n: fit(f.image, self.config.height, self.config.width) for n, f in frames.items()})
        ages = {name: seconds(stamp - f.stamp_ns) for name, f in frames.items()}
        return Observation(stamp, images, ages, self.robot.joint_names, positions, age)

    def _state_at(self, stamp_ns: int) -> tuple[FloatArray, float] | Refusal:
        """Joint positions at an instant, between the samples around it, and how far away the nearer one is, s."""
        before, after = self._states.around(stamp_ns)
        near = [s for s in (before, after) if s is not None and abs(s[0] - stamp_ns) <= nanoseconds(self.config.state_age_s)]
        if not near:
            return Refusal(Reason.JOINT_STATE_LOST, f"no joint state within {self.config.state_age_s} s of the pictures")
        age = seconds(stamp_ns - min(near, key=lambda s: abs(s[0] - stamp_ns))[0])
        if len(near) == 1 or near[0][0] == near[1][0]:
            return near[0][1].copy(), age
        (t0, q0), (t1, q1) = near
        return q0 + (q1 - q0) * ((stamp_ns - t0) / (t1 - t0)), age

    def states(self, now: Now) -> dict[str, CameraState]:
        """Of every camera, for diagnostics."""
        return {name: buffer.state(now) for name, buffer in self.cameras.items()}

    def _count(self, refusal: Refusal) -> Refusal:
        self.refusals[refusal.reason.value] += 1
        return refusal
