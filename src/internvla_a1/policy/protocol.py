"""What every policy answers to, whatever is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.scene import Scene
from internvla_a1.core.types import ActionChunk, FloatArray, Foresight, Observation


@dataclass(frozen=True)
class Committed:
    """Steps of the chunk in execution that will run before the new chunk can take over (arXiv 2506.07339).

    positions: (steps, joints), absolute targets on the new chunk's own time grid: row k is for
    observation.stamp + (k + 1) * dt. The first `frozen` rows will be executed whatever the policy says; the rest is
    what the arm would do without a new chunk. shown: rows for a policy that takes them as a prefix (ModelConfig.prefix_steps), up to
    where the new chunk has taken over altogether; 0: as many as `frozen`.
    """

    positions: FloatArray
    frozen: int
    shown: int = 0


@dataclass(frozen=True)
class PolicyRequest:
    """One question to a policy. past: the observation closest to `history_s` earlier, the oldest there is if none is that old.

    previous: the one closest to a control period earlier; None where there is none, e.g. after a give-back.
    """

    observation: Observation
    past: Observation
    instruction: str
    chunk_id: int
    committed: Committed | None = None
    want_images: bool = False
    scene: Scene | None = None  # ground truth; only the expert policy reads it
    previous: Observation | None = None
    seed: int | None = None  # noise of the flow; None draws fresh noise


@dataclass(frozen=True)
class PolicyResult:
    """The chunk, and what the policy expects to see."""

    chunk: ActionChunk
    foresight: Foresight | None = None


class Policy(Protocol):
    """A plug-in of the policy node. Construction may be slow and may raise; `infer` raises InternVLAError only."""

    robot: RobotSpec
    history_s: float  # how far back `past` should lie
    horizon_s: float  # how far ahead the foresight looks; 0 if the policy has none
    needs_scene: bool

    def infer(self, request: PolicyRequest) -> PolicyResult: ...

    def decode(self, foresight: Foresight) -> Foresight:
        """The same foresight with its images; off the critical path of the actions."""
        ...

    def reset(self) -> None:
        """Forget histories: after a clock jump, a reset of the cell or a give-back."""
        ...
