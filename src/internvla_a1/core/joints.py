"""Joints are matched by name, never by their place in a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from internvla_a1.core.faults import Reason, Refusal

_LISTS_REMEMBERED = 64  # a sender that varies its list must not fill the memory


class JointMatcher:
    """Finds the robot's joints in a list of names; the answer for a list seen before costs a look-up."""

    def __init__(self, joint_names: Sequence[str]) -> None:
        self.joint_names = tuple(joint_names)
        self._seen: dict[tuple[str, ...], np.ndarray | Refusal] = {}

    def order(self, names: Sequence[str], extra_allowed: bool) -> np.ndarray | Refusal:
        """(joints,) int: where each of the robot's joints is in `names`, or why not."""
        key = (*names, "extra" if extra_allowed else "exact")
        if key not in self._seen:
            if len(self._seen) > _LISTS_REMEMBERED:
                self._seen.clear()
            self._seen[key] = self._match(tuple(names), extra_allowed)
        return self._seen[key]

    def _match(self, names: tuple[str, ...], extra_allowed: bool) -> np.ndarray | Refusal:
        missing = [n for n in self.joint_names if n not in names]
        if missing:
            return Refusal(Reason.WRONG_JOINTS, f"missing {', '.join(missing)}; got {', '.join(names[:32]) or 'none'}")
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            return Refusal(Reason.WRONG_JOINTS, f"more than once: {', '.join(doubled[:8])}")
        unknown = [n for n in names if n not in self.joint_names]
        if unknown and not extra_allowed:
            return Refusal(Reason.WRONG_JOINTS, f"unknown {', '.join(unknown[:8])}; known: {', '.join(self.joint_names)}")
        return np.array([names.index(n) for n in self.joint_names])
