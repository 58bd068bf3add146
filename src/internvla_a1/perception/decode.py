"""Image messages to RGB. One function per message type; what cannot be decoded is a refusal with its reason, never an exception."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import ImageArray

Bytes = bytes | bytearray | memoryview | np.ndarray
LARGEST_SIDE = 8192  # px; a header that claims more is refused before anything is allocated


@dataclass(frozen=True)
class _Encoding:
    """channels: bytes per pixel as they are stored. conversion: OpenCV's code to RGB, None where it is RGB already."""

    channels: int
    conversion: int | None


ENCODINGS: dict[str, _Encoding] = {  # names of sensor_msgs/image_encodings.hpp
    "rgb8": _Encoding(3, None),
    "bgr8": _Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Encoding(3, cv2.COLOR_BGR2RGB),  # OpenCV's own order, as cv_bridge writes it
    "yuv422": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Encoding(2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Encoding(2, cv2.COLOR_YUV2RGB_YUY2),
}


def content_hash(data: Bytes) -> int:
    """A number that differs when the bytes do: how a frozen camera is told from a live one."""
    return zlib.crc32(np.frombuffer(data, np.uint8).data)


def decode_image(encoding: str, height: int, width: int, step: int, data: Bytes) -> ImageArray | Refusal:
    """sensor_msgs/Image to (height, width, 3) uint8 RGB. step: bytes per row, padding allowed; more data than rows is refused."""
    known = ENCODINGS.get(encoding)
    if known is None:
        return Refusal(Reason.BAD_ENCODING, f"encoding {encoding[:32]!r}, possible: {', '.join(ENCODINGS)}")
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        return Refusal(Reason.BAD_ENCODING, f"{width} x {height} pixels, allowed 1 to {LARGEST_SIDE} a side")
    row = width * known.channels
    if step < row:
        return Refusal(Reason.BAD_ENCODING, f"step {step} is shorter than a row of {width} {encoding} pixels, {row} bytes")
    try:
        flat = np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        return Refusal(Reason.BAD_ENCODING, f"data is not bytes: {error}"[:200])
    if flat.size != step * height:
        return Refusal(Reason.BAD_ENCODING, f"{flat.size} bytes of data, step x height is {step * height}")
    if known.channels == 2 and width % 2:
        return Refusal(Reason.BAD_ENCODING, f"{encoding} needs an even width, not {width}")
    pixels = flat.reshape(height, step)[:, :row]
    if known.channels > 1:
        pixels = pixels.reshape(height, width, known.channels)
    return _to_rgb(np.ascontiguousarray(pixels), known.conversion)


def decode_compressed(data: Bytes) -> ImageArray | Refusal:
    """sensor_msgs/CompressedImage (JPEG or PNG, told by its content) to (height, width, 3) uint8 RGB."""
    try:
        raw = bytes(data)
    except (TypeError, ValueError) as error:
        return Refusal(Reason.BAD_ENCODING, f"data is not bytes: {error}"[:200])
    size = _png_size(raw) or _jpeg_size(raw)
    if size is None:
        return Refusal(Reason.BAD_ENCODING, f"{len(raw)} bytes that are neither a whole JPEG nor a whole PNG")
    height, width = size
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        return Refusal(Reason.BAD_ENCODING, f"{width} x {height} pixels, allowed 1 to {LARGEST_SIDE} a side")
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        return Refusal(Reason.BAD_ENCODING, f"does not decode: {error.err}"[:200])
    if image is None:
        return Refusal(Reason.BAD_ENCODING, f"{len(raw)} bytes do not decode")
    return _to_rgb(image.astype(np.uint8, copy=False), cv2.COLOR_BGR2RGB)


def _to_rgb(pixels: ImageArray, conversion: int | None) -> ImageArray | Refusal:
    if conversion is None:
        return pixels.copy() if pixels.base is not None else pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, conversion), dtype=np.uint8)
    except cv2.error as error:
        return Refusal(Reason.BAD_ENCODING, f"does not convert: {error.err}"[:200])


def _png_size(raw: bytes) -> tuple[int, int] | None:
    """(height, width) from the header; None unless it starts and ends as a PNG does."""
    if raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR" or b"IEND" not in raw[-16:] or len(raw) < 45:
        return None
    return int.from_bytes(raw[20:24], "big"), int.from_bytes(raw[16:20], "big")


def _jpeg_size(raw: bytes) -> tuple[int, int] | None:
    """(height, width) from the frame header; None unless it starts and ends as a JPEG does."""
    if raw[:2] != b"\xff\xd8" or b"\xff\xd9" not in raw[-64:]:
        return None
    at = 2
    while at + 9 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(raw[at + 5 : at + 7], "big"), int.from_bytes(raw[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return None


def fit(image: ImageArray, height: int, width: int) -> ImageArray:
    """(height, width, 3): scaled to fit, black around it (the smaller half top and left), as model.md section 8 pads.

    Shrinks by area averaging: every source pixel counts, so small objects do not flicker.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    scale = min(height / h, width / w)
    new_h, new_w = max(1, round(h * scale)), max(1, round(w * scale))
    scaled = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if (new_h, new_w) == (height, width):
        return np.asarray(scaled, dtype=np.uint8)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - new_h) // 2, (width - new_w) // 2
    out[top : top + new_h, left : left + new_w] = scaled
    return out
