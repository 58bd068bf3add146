"""Pixels of sensor_msgs/Image to numpy and back. cv_bridge does the reading where it is installed; else these functions.

Which conversions a camera stream may need (compressed, Bayer, YUV, 16 bit) is perception's business: here only the layout of
the message is checked, and every defect is a Refusal.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from internvla_a1.core.errors import MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import ImageArray
from internvla_a1.ros.time import stamp_msg

# encoding -> (dtype, channels) of sensor_msgs/image_encodings.hpp
LAYOUTS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),
    "8UC4": ("u1", 4),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    "bayer_rggb8": ("u1", 1),
    "bayer_bggr8": ("u1", 1),
    "bayer_gbrg8": ("u1", 1),
    "bayer_grbg8": ("u1", 1),
    "yuv422": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
}
_MAX_SIDE = 16384


def image_msg(image: ImageArray, stamp_ns: int, frame_id: str = "") -> Image:
    """An rgb8 message of a (height, width, 3) uint8 RGB picture.

    array.frombytes is the fast way: assigning an ndarray is checked element by element (100 ms for 640x480).
    """
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp = stamp_msg(stamp_ns)
    message.header.frame_id = frame_id
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image, dtype=np.uint8).data)
    message.data = data
    return message


def pixels(message: Image) -> NDArray[Any] | Refusal:
    """The message's own pixels, (height, width) or (height, width, channels), without a copy.

    The array is a view of the message: copy it before keeping it. Row padding (step) is honoured, big-endian 16 and 32 bit
    data is viewed as such. Refuses unknown encodings, empty or oversized pictures, and lengths that do not fit.
    """
    layout = LAYOUTS.get(message.encoding)
    if layout is None:
        return Refusal(Reason.BAD_ENCODING, f"encoding {message.encoding[:40]!r}, possible: {', '.join(LAYOUTS)}")
    height, width, step = int(message.height), int(message.width), int(message.step)
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        return Refusal(Reason.WRONG_SHAPE, f"picture of {width}x{height}")
    kind, channels = layout
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    row = width * channels * dtype.itemsize
    if step < row or step % dtype.itemsize:
        return Refusal(Reason.WRONG_SHAPE, f"step {step} for rows of {row} bytes")
    if len(message.data) != height * step:
        return Refusal(Reason.WRONG_SHAPE, f"{len(message.data)} bytes for {height} rows of {step}")
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, :row]
    if dtype.itemsize > 1:
        rows = np.ascontiguousarray(rows).view(dtype)
    return rows.reshape(height, width) if channels == 1 else rows.reshape(height, width, channels)


def rgb(message: Image) -> ImageArray | Refusal:
    """(height, width, 3) uint8 RGB of an rgb8 or bgr8 message: a view for rgb8, reversed for bgr8."""
    if message.encoding not in ("rgb8", "bgr8"):
        return Refusal(Reason.BAD_ENCODING, f"encoding {message.encoding[:40]!r}, possible: rgb8, bgr8")
    values = pixels(message)
    if isinstance(values, Refusal):
        return values
    return values if message.encoding == "rgb8" else values[:, :, ::-1]


class CvBridgeReader:
    """cv_bridge in its own adapter: the same pictures for encodings that only OpenCV knows. Raises MissingDependencyError."""

    def __init__(self) -> None:
        try:
            from cv_bridge import CvBridge
        except ImportError as error:
            hint = "sudo apt install ros-$ROS_DISTRO-cv-bridge"
            raise MissingDependencyError("cv_bridge", "reading images through OpenCV", hint) from error
        self._bridge = CvBridge()

    def rgb(self, message: Image) -> ImageArray | Refusal:
        """(height, width, 3) uint8 RGB."""
        try:
            return np.asarray(self._bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"), dtype=np.uint8)
        except Exception as error:  # cv_bridge raises its own and OpenCV's errors
            return Refusal(Reason.BAD_ENCODING, str(error)[:200])
