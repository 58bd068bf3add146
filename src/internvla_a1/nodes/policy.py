"""The policy node: observations and an instruction in, action chunks and foresight out.

Inference runs in its own thread, so services and watchdogs answer while the model works. A chunk goes out as soon as its actions are
ready; the foresight is decoded into images afterwards, and only when somebody listens.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from internvla_a1_msgs.msg import ActionChunk as ActionChunkMsg
from internvla_a1_msgs.msg import ExecutorStatus, HandoverState
from internvla_a1_msgs.msg import Foresight as ForesightMsg
from internvla_a1_msgs.msg import Observation as ObservationMsg
from internvla_a1_msgs.srv import SetInstruction
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from internvla_a1.core.clock import nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.scene import Scene
from internvla_a1.core.types import Observation
from internvla_a1.nodes.policy_params import PolicyParams, build_policy
from internvla_a1.perception.history import History
from internvla_a1.policy.commitment import Commitments
from internvla_a1.policy.instruction import InstructionError, clean_instruction
from internvla_a1.policy.protocol import Policy, PolicyRequest, PolicyResult
from internvla_a1.policy.registry import make_policy
from internvla_a1.policy.waiting import wait_chunk
from internvla_a1.policy.worker import NewestJobThread
from internvla_a1.ros import convert, diagnostics, qos
from internvla_a1.ros.lifecycle import ManagedNode
from internvla_a1.ros.run import run_node
from internvla_a1.ros.scene_markers import SceneReader
from internvla_a1.ros.time import watch_jumps

RETRY_S = 1.0  # after a failed inference
CLOSE_LIMIT_S = 1.2  # of the 2 s that a node has to end
SCENE_AGE_S = 0.3  # ground truth further than this from the observation is not used
REMEMBERED = 64  # observations, for the one history_s earlier
ANY_AGE_S = 3600.0  # the past is the nearest to history_s ago, however far
EARLY_S = 0.01  # an observation this much before the period is over counts as on time


@dataclass(frozen=True)
class Job:
    """One observation to infer from. epoch: histories were not cleared since."""

    epoch: int
    request: PolicyRequest


class PolicyNode(ManagedNode):
    """Thin: messages to values, values to the thread, results to messages."""

    SPARE_MB = 48  # with the pictures of its history

    def __init__(self, make: Callable[..., Policy] = make_policy, **kwargs: Any) -> None:
        """make: gives the policy, as policy.registry.make_policy does."""
        super().__init__("policy", PolicyParams, **kwargs)
        self._make = make
        self._lock = threading.Lock()  # what callbacks and the thread share: epoch, commitments, chunk ids
        self._epoch = 0
        self._worker: NewestJobThread[Job] | None = None

    def configure(self, params: PolicyParams) -> None:
        self._params = params
        self._robot = load_robot(find(params.robot))
        self._policy = build_policy(params, self._robot, self._make)
        self._commitments = Commitments(params.delay_margin_s, params.fade_s, self._robot.gripper_mask)
        self._history: History[Observation] = History(REMEMBERED)
        self._scenes = SceneReader()
        self._scene: Scene | None = None
        self._instruction = clean_instruction(params.instruction) if params.instruction else None
        self._next_id, self._error = 1, ""
        self._drawn_ns = 0
        self._mode: int | None = None
        self._last_ns: int | None = None
        self._reset_wanted = True
        self._worker = NewestJobThread(self._infer, self._failed, RETRY_S)
        self._wire()

    def _wire(self) -> None:
        self._chunks = self.publisher(ActionChunkMsg, "policy/action_chunk", qos.RELIABLE)
        self._foresights = self.publisher(ForesightMsg, "policy/foresight", qos.RELIABLE)
        self.subscription(ObservationMsg, "perception/observation", self._on_observation, qos.NEWEST)
        self.subscription(String, "instruction", self._on_instruction, qos.LATCHED, always=True)
        self.subscription(HandoverState, "handover/state", self._on_handover, qos.LATCHED, always=True)
        self.subscription(ExecutorStatus, "executor/status", self._on_status)
        self.service(SetInstruction, "policy/set_instruction", self._on_set_instruction)
        if self._policy.needs_scene:
            self.subscription(MarkerArray, "cell/objects", self._on_scene)
        self._jumps = watch_jumps(self, self._on_jump, forward_s=1.0)

    def activate(self) -> None:
        self._forget()

    def deactivate(self) -> None:
        self._forget()

    def cleanup(self) -> None:
        self._jumps = None
        if self._worker is not None and not self._worker.close(CLOSE_LIMIT_S):
            self.get_logger().warning("the inference in work was left behind")
        self._worker = None

    def health(self) -> diagnostics.Health:
        if not self.active:
            return super().health()
        if self._error:
            return diagnostics.ERROR, self._error
        if self._instruction is None:
            return diagnostics.WARN, "waiting for an instruction"
        if self._last_ns is None:
            return diagnostics.WARN, "waiting for observations"
        return diagnostics.OK, f"following {self._instruction!r}" if self._instruction else "waiting: the instruction is empty"

    def _on_observation(self, message: ObservationMsg) -> None:
        seen = convert.observation(message, self._robot.joint_names)
        newest = self._history.newest
        if isinstance(seen, Observation) and newest is not None and seen.stamp_ns <= newest[0]:
            seen = Refusal(Reason.STAMP_OLD, f"{seconds(newest[0] - seen.stamp_ns):.3f} s older than the newest")
        if isinstance(seen, Refusal):
            self.diagnostics.refuse("observation", seen)
            return
        self._history.push(seen.stamp_ns, seen)
        period_ns = nanoseconds(self.get_parameter("period_s").value - EARLY_S)
        if self._instruction is None or (self._last_ns is not None and seen.stamp_ns - self._last_ns < period_ns):
            return
        scene = self._scene_at(seen.stamp_ns)
        if self._policy.needs_scene and scene is None:
            self.diagnostics.refuse("observation", f"the {self._params.policy} policy reads cell/objects, and nothing of that instant came")
            return
        with self._lock:
            job = Job(self._epoch, self._request(seen, self._instruction, scene))
        if self._worker is not None and self._worker.offer(job):
            self._last_ns = seen.stamp_ns

    def _request(self, seen: Observation, instruction: str, scene: Scene | None) -> PolicyRequest:
        seed = None if self._params.seed < 0 else (self._params.seed + seen.stamp_ns) % 2**63
        found = self._history.nearest(seen.stamp_ns - nanoseconds(self._policy.history_s), tolerance_s=ANY_AGE_S)
        past = seen if found is None else found[1]
        period = self._robot.control_dt_s
        before = self._history.nearest(seen.stamp_ns - nanoseconds(period), tolerance_s=period / 2)
        previous = None if before is None else before[1]
        return PolicyRequest(seen, past, instruction, chunk_id=0, scene=scene, previous=previous, seed=seed)

    def _scene_at(self, stamp: int) -> Scene | None:
        """Ground truth moved on to the instant of the observation; None if it is from another time."""
        scene = self._scene
        if scene is None or abs(seconds(stamp - scene.stamp_ns)) > SCENE_AGE_S:
            return None
        return scene.advanced(seconds(stamp - scene.stamp_ns))

    def _infer(self, job: Job) -> None:
        """In the thread: one chunk, then its foresight."""
        began = time.monotonic()
        with self._lock:
            reset, self._reset_wanted = self._reset_wanted, False
            request = replace(job.request, chunk_id=self._next_id, committed=self._committed(job.request.observation.stamp_ns))
        if reset:
            self._policy.reset()
        result = self._answer(request)
        took = time.monotonic() - began
        chunk = replace(result.chunk, inference_time_s=took, instruction=request.instruction)
        with self._lock:
            if job.epoch != self._epoch or not self.active:
                self.diagnostics.count("chunks_outdated")
                return
            self._next_id += 1
            self._chunks.publish(convert.chunk_msg(chunk))
            self._commitments.sent(chunk, self.now().stamp_ns)
        self._error = ""
        self.diagnostics.count("chunks")
        self.diagnostics.update(
            {
                "inference_ms": 1e3 * took,
                "delay_ms": 1e3 * self._commitments.delay_s,
                "frozen_steps": chunk.frozen_steps,
                "instruction": request.instruction,
            }
        )
        if result.foresight is not None and self._is_looked_at(request.observation.stamp_ns):
            decoded = self._policy.decode(result.foresight)
            self._foresights.publish(convert.foresight_msg(decoded))
            self.diagnostics.set("foresight_ms", 1e3 * (time.monotonic() - began - took))

    def _is_looked_at(self, stamp: int) -> bool:
        """Whether somebody looks, and the picture before is old enough: drawing takes half as long as a chunk and holds the next up."""
        period_ns = nanoseconds(self.get_parameter("foresight_period_s").value - EARLY_S)
        if self._foresights.get_subscription_count() == 0 or 0 <= stamp - self._drawn_ns < period_ns:
            return False
        self._drawn_ns = stamp
        return True

    def _answer(self, request: PolicyRequest) -> PolicyResult:
        """The policy's answer; without an instruction only the expert has one, and the arm waits."""
        if request.instruction or self._policy.needs_scene:
            return self._policy.infer(request)
        return PolicyResult(wait_chunk(request.observation, request.committed, self._robot.control_dt_s, request.chunk_id))

    def _committed(self, stamp: int) -> Any:
        if not self.get_parameter("realtime_chunking").value or self._mode != HandoverState.POLICY:
            return None
        return self._commitments.steps(stamp, self._robot.control_dt_s)

    def _failed(self, error: Exception) -> None:
        """In the thread: an inference failed; the next one is tried after RETRY_S."""
        first_line = (str(error).splitlines() or [""])[0]
        self._error = f"inference failed: {type(error).__name__}: {first_line[:300]}"
        self._reset_wanted = True
        self.diagnostics.count("inference_errors")
        self.diagnostics.set("last_error", self._error)
        self.diagnostics.warn_throttled(f"infer/{type(error).__name__}", self._error, every_s=5.0)

    def _on_scene(self, message: MarkerArray) -> None:
        scene = self._scenes.read(message)
        if isinstance(scene, Refusal):
            self.diagnostics.refuse("cell/objects", scene)
        else:
            self._scene = scene

    def _on_status(self, message: ExecutorStatus) -> None:
        told = convert.told(message, self._robot.joint_names)
        with self._lock:
            self._commitments.executing(message.chunk_id, message.chunk_age, None if isinstance(told, Refusal) else told)

    def _on_handover(self, message: HandoverState) -> None:
        given_back = message.mode == HandoverState.POLICY and self._mode not in (None, HandoverState.POLICY)
        self._mode = message.mode
        if given_back:
            self._start_over("the arm was given back")

    def _on_instruction(self, message: String) -> None:
        if self._set_instruction(message.data):
            self.diagnostics.count("instructions")

    def _on_set_instruction(self, request: Any, response: Any) -> Any:
        response.success = self._set_instruction(request.instruction)
        response.message = self._instruction if response.success else self.diagnostics.last_refusal
        return response

    def _set_instruction(self, words: str) -> bool:
        """An empty instruction means wait."""
        if not words.strip():
            self._instruction = ""
            return True
        try:
            self._instruction = clean_instruction(words)
        except InstructionError as error:
            self.diagnostics.refuse("instruction", str(error))
            return False
        return True

    def _on_jump(self, jump_s: float) -> None:
        self._scenes, self._scene = SceneReader(), None
        self._start_over(f"the clock jumped by {jump_s:.3f} s")

    def _start_over(self, why: str) -> None:
        self.get_logger().info(f"histories cleared: {why}")
        self.diagnostics.count("histories_cleared")
        self._forget()

    def _forget(self) -> None:
        """Nothing from before this moment counts any more, not even the inference in work."""
        with self._lock:
            self._epoch += 1
            self._commitments.clear()
            self._reset_wanted = True
        self._history.clear()
        self._last_ns = None


def main(args: list[str] | None = None) -> int:
    return run_node(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
