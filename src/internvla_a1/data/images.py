"""Single pictures as PNG bytes, the form in which LeRobot keeps `image` features inside parquet."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from internvla_a1.core.errors import DataError, MissingDependencyError
from internvla_a1.core.types import ImageArray


def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError("opencv", "pictures in data sets", "pip install opencv-python-headless") from error
    return cv2


def to_png(image: ImageArray) -> bytes:
    """(H, W, 3) uint8 RGB, lossless."""
    cv2 = _cv2()
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DataError(f"a picture of shape {image.shape} could not be written as PNG")
    return data.tobytes()


def from_bytes(data: bytes) -> ImageArray:
    """PNG or JPEG bytes to (H, W, 3) uint8 RGB. Raises DataError if they are no picture."""
    cv2 = _cv2()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{len(data)} bytes that are not a picture")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fitted(image: ImageArray, side: int) -> ImageArray:
    """(H, W, 3) to (side, side, 3) as the policy's way in does it: bilinear without antialias, zeros around, within one grey level.

    The same array if it already fits.
    """
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    scale = side / max(height, width)
    new_h, new_w = round(height * scale), round(width * scale)
    top, left = (side - new_h) // 2, (side - new_w) // 2
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[top : top + new_h, left : left + new_w] = _cv2().resize(image, (new_w, new_h), interpolation=_cv2().INTER_LINEAR)
    return canvas


def resized(image: ImageArray, height: int, width: int) -> ImageArray:
    """Area-averaged (shrinking) or bilinear (growing) copy of (H, W, 3); the same array if it already fits."""
    if image.shape[:2] == (height, width):
        return image
    cv2 = _cv2()
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
