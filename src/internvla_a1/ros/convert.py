"""Messages of internvla_a1_msgs to the types of core/types.py and back, one function per boundary.

What comes from the wire is refused, not raised: functions that read return the typed value or a Refusal with the reason and the
number that tripped it. Functions that write take checked types and cannot fail.
"""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from internvla_a1_msgs.msg import ActionChunk as ActionChunkMsg
from internvla_a1_msgs.msg import ExecutorStatus as ExecutorStatusMsg
from internvla_a1_msgs.msg import Foresight as ForesightMsg
from internvla_a1_msgs.msg import HandoverState as HandoverStateMsg
from internvla_a1_msgs.msg import Observation as ObservationMsg
from sensor_msgs.msg import Image

from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import ActionChunk, FloatArray, Foresight, ImageArray, Observation
from internvla_a1.ros.image_bridge import image_msg, rgb
from internvla_a1.ros.joints import finite, order
from internvla_a1.ros.time import stamp_msg, stamp_ns

MAX_INSTRUCTION = 512
_MAX_STEPS = 1000


def observation_msg(observation: Observation, cameras: Sequence[str]) -> ObservationMsg:
    """`cameras` fixes the order; a camera without an image becomes an empty picture with image_valid false."""
    message = ObservationMsg(cameras=list(cameras), joint_names=list(observation.joint_names))
    message.header.stamp = stamp_msg(observation.stamp_ns)
    for camera in cameras:
        image = observation.images.get(camera)
        message.images.append(Image(encoding="rgb8") if image is None else image_msg(image, observation.stamp_ns))
        message.image_valid.append(image is not None)
        message.image_age.append(observation.image_age_s.get(camera, 0.0))
    message.joint_positions = array.array("d", observation.positions.tolist())
    message.state_age = observation.state_age_s
    return message


def observation(message: ObservationMsg, joints: Sequence[str]) -> Observation | Refusal:
    """An observation with the joints in the order of `joints`. Images are copies."""
    count = len(message.cameras)
    for name in ("images", "image_valid", "image_age"):
        if len(getattr(message, name)) != count:
            return Refusal(Reason.WRONG_SHAPE, f"{len(getattr(message, name))} {name} for {count} cameras")
    if len(message.joint_positions) != len(message.joint_names):
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.joint_positions)} positions for {len(message.joint_names)} joints")
    index = order(message.joint_names, joints, exact=True)
    if isinstance(index, Refusal):
        return index
    positions = np.asarray(message.joint_positions, dtype=np.float64)[index]
    bad = finite("joint_positions", positions) or finite("image_age", [*message.image_age, message.state_age])
    if bad:
        return bad
    images: dict[str, ImageArray | None] = {}
    for camera, image, valid in zip(message.cameras, message.images, message.image_valid, strict=True):
        view = rgb(image) if valid else None
        if isinstance(view, Refusal):
            return Refusal(view.reason, f"{camera}: {view.detail}")
        images[camera] = None if view is None else view.copy()
    ages = {camera: float(age) for camera, age in zip(message.cameras, message.image_age, strict=True)}
    return Observation(stamp_ns(message.header.stamp), images, ages, tuple(joints), positions, float(message.state_age))


def chunk_msg(chunk: ActionChunk) -> ActionChunkMsg:
    """internvla_a1_msgs/ActionChunk."""
    message = ActionChunkMsg(
        id=chunk.chunk_id,
        source=chunk.source,
        joint_names=list(chunk.joint_names),
        steps=chunk.steps,
        dt=chunk.dt_s,
        positions=array.array("d", np.ascontiguousarray(chunk.positions, dtype=np.float64).tobytes()),
        frozen_steps=chunk.frozen_steps,
        inference_time=chunk.inference_time_s,
        instruction=chunk.instruction,
    )
    message.header.stamp = stamp_msg(chunk.stamp_ns)
    return message


def chunk(message: ActionChunkMsg, joints: Sequence[str]) -> ActionChunk | Refusal:
    """A chunk in the order of `joints`; refuses other joints, wrong lengths, a period that is not above zero, non-finite numbers."""
    index = order(message.joint_names, joints, exact=True)
    if isinstance(index, Refusal):
        return index
    steps, width = int(message.steps), len(message.joint_names)
    if not 0 < steps <= _MAX_STEPS:
        return Refusal(Reason.WRONG_HORIZON, f"{steps} steps, possible: 1 to {_MAX_STEPS}")
    if len(message.positions) != steps * width:
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.positions)} positions for {steps} steps of {width} joints")
    if not (np.isfinite(message.dt) and 0 < message.dt <= 10):
        return Refusal(Reason.WRONG_SHAPE, f"dt {message.dt} s, possible: above 0 to 10 s")
    if message.frozen_steps > steps:
        return Refusal(Reason.WRONG_HORIZON, f"{message.frozen_steps} frozen steps out of {steps}")
    positions = np.asarray(message.positions, dtype=np.float64).reshape(steps, width)
    bad = finite("positions", positions) or finite("inference_time", [message.inference_time])
    return bad or ActionChunk(
        stamp_ns=stamp_ns(message.header.stamp),
        chunk_id=int(message.id),
        joint_names=tuple(joints),
        dt_s=float(message.dt),
        positions=np.ascontiguousarray(positions[:, index]),
        source=message.source[:MAX_INSTRUCTION],
        frozen_steps=int(message.frozen_steps),
        inference_time_s=float(message.inference_time),
        instruction=message.instruction[:MAX_INSTRUCTION],
    )


def unjudged_chunk(message: ActionChunkMsg) -> ActionChunk:
    """A chunk as it came, for a gate that counts nonsense itself. Positions that do not fit steps x joints become one column."""
    steps, width = int(message.steps), len(message.joint_names)
    positions = np.asarray(message.positions, dtype=np.float64)
    positions = positions.reshape(steps, width) if positions.size == steps * width else positions.reshape(-1, 1)
    return ActionChunk(
        stamp_ns=stamp_ns(message.header.stamp),
        chunk_id=int(message.id),
        joint_names=tuple(message.joint_names),
        dt_s=float(message.dt),
        positions=positions,
        source=message.source[:MAX_INSTRUCTION],
        frozen_steps=int(message.frozen_steps),
        inference_time_s=float(message.inference_time),
        instruction=message.instruction[:MAX_INSTRUCTION],
    )


def foresight_msg(foresight: Foresight) -> ForesightMsg:
    """internvla_a1_msgs/Foresight; images go in the order of foresight.cameras, or not at all."""
    message = ForesightMsg(
        chunk_id=foresight.chunk_id,
        horizon=foresight.horizon_s,
        cameras=list(foresight.cameras),
        latent_shape=array.array("I", foresight.latents.shape),
        latents=array.array("f", np.ascontiguousarray(foresight.latents, dtype=np.float32).tobytes()),
    )
    message.header.stamp = stamp_msg(foresight.stamp_ns)
    if foresight.images:
        message.images = [image_msg(foresight.images[c], foresight.stamp_ns) for c in foresight.cameras]
    return message


def foresight(message: ForesightMsg) -> Foresight | Refusal:
    """A foresight; latents are a copy."""
    shape = tuple(int(n) for n in message.latent_shape)
    if len(shape) != 4 or shape[0] != len(message.cameras):
        return Refusal(Reason.WRONG_SHAPE, f"latents of shape {shape} for {len(message.cameras)} cameras")
    if len(message.latents) != int(np.prod(shape, dtype=np.int64)):
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.latents)} latents for shape {shape}")
    latents = np.array(message.latents, dtype=np.float32).reshape(shape)
    if not (np.isfinite(latents).all() and np.isfinite(message.horizon)):
        return Refusal(Reason.NON_FINITE, "latents or horizon are not finite")
    if len(message.images) not in (0, len(message.cameras)):
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.images)} images for {len(message.cameras)} cameras")
    images: dict[str, ImageArray] = {}
    for camera, image in zip(message.cameras, message.images, strict=False):
        view = rgb(image)
        if isinstance(view, Refusal):
            return Refusal(view.reason, f"{camera}: {view.detail}")
        images[camera] = view.copy()
    stamp = stamp_ns(message.header.stamp)
    return Foresight(stamp, int(message.chunk_id), float(message.horizon), tuple(message.cameras), latents, images)


def handover_msg(stamp: int, mode: int, reason: str = "", blend: float = 1.0, chunk_id: int = 0) -> HandoverStateMsg:
    """internvla_a1_msgs/HandoverState; `mode` is one of its constants."""
    message = HandoverStateMsg(mode=mode, reason=reason, blend=blend, chunk_id=chunk_id)
    message.header.stamp = stamp_msg(stamp)
    return message


def status_msg(
    stamp: int,
    joints: Sequence[str],
    commanded: FloatArray,
    tracking_error: FloatArray,
    *,
    chunk_id: int = 0,
    step: int = 0,
    chunk_age_s: float = 0.0,
    accepted: int = 0,
    rejected: int = 0,
    limits_applied: int = 0,
    last_rejection: str = "",
) -> ExecutorStatusMsg:
    """internvla_a1_msgs/ExecutorStatus; commanded and tracking_error: (joints,), empty where there is nothing yet."""
    message = ExecutorStatusMsg(
        chunk_id=chunk_id,
        step=step,
        joint_names=list(joints),
        chunk_age=chunk_age_s,
        chunks_accepted=accepted,
        chunks_rejected=rejected,
        limits_applied=limits_applied,
        last_rejection=last_rejection,
    )
    message.header.stamp = stamp_msg(stamp)
    message.commanded = array.array("d", commanded.tolist())
    message.tracking_error = array.array("d", tracking_error.tolist())
    return message


def told(message: ExecutorStatusMsg, joints: Sequence[str]) -> FloatArray | Refusal:
    """Where the executor tells the arm to be, (joints,)."""
    index = order(message.joint_names, joints)
    if isinstance(index, Refusal):
        return index
    if len(message.commanded) != len(message.joint_names):
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.commanded)} positions for {len(message.joint_names)} joints")
    commanded = np.asarray(message.commanded)[index]
    return finite("commanded", commanded) or commanded
