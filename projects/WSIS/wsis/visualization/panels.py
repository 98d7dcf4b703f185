"""Panels of one size for pictures and maps of any size, and what is drawn on the photograph.

H, W of the image, h, w of a map (any size), P, Q height and width of the panel, which is a picture
(P, Q, 3) uint8 RGB; a ``photo`` is the photograph as a panel. What is drawn is a new panel.
"""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib import colormaps
from PIL import Image

PANEL_WIDTH = 360
_TALLEST = 1.5  # panel height over PANEL_WIDTH at most
_SHORTEST = 16  # side of a panel, pixels: an image one pixel wide is to be seen too
_ARM = 5  # of a cross, pixels
_GAP = 8  # between two panels, pixels
_GREY_WEIGHTS = (0.299, 0.587, 0.114)

Size = tuple[int, int]


def panel_size(height: int, width: int, *, panel_width: int = PANEL_WIDTH) -> Size:
    """(P, Q) of the panel of an image: ``panel_width`` wide, unless that would be too tall."""
    factor = min(panel_width / width, _TALLEST * panel_width / height)
    return max(_SHORTEST, round(height * factor)), max(_SHORTEST, round(width * factor))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 to (P, Q, 3) uint8, smoothly."""
    shrinks = image.shape[0] > size[0]
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), method))


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """(..., h, w) of any type to (..., P, Q): the cell in which the centre of a pixel lies."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[..., rows[:, None], columns]


def resize_map(values: np.ndarray, size: Size) -> np.ndarray:
    """(h, w) float to (P, Q) float32, bilinearly; values that are not finite count as 0."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float32), posinf=0.0, neginf=0.0)
    resized = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def photo_panel(image: np.ndarray, width: int = PANEL_WIDTH) -> np.ndarray:
    """The photograph (H, W, 3) uint8 RGB as a panel, ``width`` pixels wide unless too tall."""
    return resize_image(image, panel_size(*image.shape[:2], panel_width=width))


def faint(photo: np.ndarray) -> np.ndarray:
    """The photograph in grey, (P, Q, 3) float in 0..255: only what is drawn on it has colours."""
    return np.repeat((photo @ np.array(_GREY_WEIGHTS))[:, :, None], 3, axis=2)


def blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    """Colours (P, Q, 3) in 0..255 laid over others, with the share ``alpha``, as uint8."""
    mixed = below * (1.0 - alpha) + above * alpha
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def heat_panel(photo: np.ndarray, values: np.ndarray, *, highest: float = 1.0) -> np.ndarray:
    """A map (h, w), not negative, over the photograph, from blue (0) to red (``highest``, or 1)."""
    heat = resize_map(values, photo.shape[:2]) / (highest if highest > 0 else 1.0)
    heat = np.clip(heat, 0.0, 1.0)
    colors = 255.0 * colormaps["turbo"](heat)[:, :, :3]
    return blend(faint(photo), colors, 0.35 + 0.35 * heat[:, :, None])


def mark_places(panel: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Crosses, white with a dark rim: peaks at (n, 2) float (y, x), shares of height and width."""
    marked, last = panel.copy(), np.array(panel.shape[:2]) - 1
    arm = max(_ARM, panel.shape[1] // 90)
    corners = (np.asarray(places, dtype=np.float64).reshape(-1, 2) * last + 0.5).astype(int)
    for color, rim, thickness in ((20, 1, 3), (255, 0, 1)):
        reach = arm + rim
        for y, x in corners.tolist():
            cv2.line(marked, (x - reach, y), (x + reach, y), (color,) * 3, thickness)
            cv2.line(marked, (x, y - reach), (x, y + reach), (color,) * 3, thickness)
    return marked


def side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    """Panels, at least one, in a row on white: (tallest P, sum of Q and gaps, 3) uint8."""
    tallest = max(len(panel) for panel in panels)
    padded = [
        np.pad(one, ((0, tallest - len(one)), (0, _GAP), (0, 0)), constant_values=255)
        for one in panels
    ]
    return np.concatenate(padded, axis=1)[:, :-_GAP]
