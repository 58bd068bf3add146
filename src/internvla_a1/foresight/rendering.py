"""Pictures of the predicted future: what is seen now beside what the policy expects to see."""

from __future__ import annotations

import cv2
import numpy as np

from internvla_a1.core.types import ImageArray

TILE = 224  # px, edge of one picture
BAR = 22  # px, height of a caption
GAP = 4  # px between pictures
BACKGROUND = (24, 24, 28)
TEXT = (235, 235, 235)
NOTE = (150, 150, 158)
NOW = (60, 130, 190)
AHEAD = (190, 70, 170)


def captioned(image: ImageArray, caption: str, color: tuple[int, int, int], size: int = TILE) -> ImageArray:
    """(size + BAR, size, 3): the picture fitted into a square, under a bar with its caption."""
    tile = np.full((size + BAR, size, 3), BACKGROUND, np.uint8)
    tile[:BAR] = color
    _write(tile, caption, (6, BAR - 7), TEXT)
    fitted = fit(image, size)
    top, left = BAR + (size - fitted.shape[0]) // 2, (size - fitted.shape[1]) // 2
    tile[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return tile


def fit(image: ImageArray, size: int) -> ImageArray:
    """The picture with its longer edge scaled to `size`, proportions kept."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target == (width, height):
        return image
    scaled = cv2.resize(image, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(scaled, dtype=np.uint8)


def empty(caption: str, note: str, color: tuple[int, int, int], size: int = TILE) -> ImageArray:
    """A tile that says why there is no picture."""
    tile = captioned(np.full((size, size, 3), BACKGROUND, np.uint8), caption, color, size)
    _write(tile, note, (10, BAR + size // 2), NOTE)
    return tile


def predicted_view(image: ImageArray, camera: str, horizon_s: float, size: int = TILE) -> ImageArray:
    """One predicted picture under its caption."""
    return captioned(image, f"{camera}: in {horizon_s:.1f} s", AHEAD, size)


def sheet(now: dict[str, ImageArray | None], predicted: dict[str, ImageArray], horizon_s: float, cameras: tuple[str, ...],
          note: str = "no prediction", surprise: float | None = None, size: int = TILE) -> ImageArray:
    """One row per camera, now on the left and predicted on the right, both labelled.

    now, predicted: camera -> (H, W, 3) uint8 RGB, any size; a view that is missing leaves a tile that says so.
    Returns (rows * (size + BAR + GAP) + GAP, 2 * size + 3 * GAP, 3) uint8.
    """
    row_height = size + BAR + GAP
    page = np.full((len(cameras) * row_height + GAP, 2 * size + 3 * GAP, 3), BACKGROUND, np.uint8)
    for row, camera in enumerate(cameras):
        image = now.get(camera)
        left = empty(f"{camera}: now", "view missing", NOW, size) if image is None else captioned(image, f"{camera}: now", NOW, size)
        future = predicted.get(camera)
        right = empty(f"{camera}: predicted", note, AHEAD, size) if future is None else predicted_view(future, camera, horizon_s, size)
        top = GAP + row * row_height
        page[top : top + size + BAR, GAP : GAP + size] = left
        page[top : top + size + BAR, 2 * GAP + size : 2 * (GAP + size)] = right
    if surprise is not None and cameras:
        _write(page, f"surprise {surprise:.2f}", (page.shape[1] - 108, GAP + BAR - 7), TEXT)
    return page


def _write(image: ImageArray, text: str, origin: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
