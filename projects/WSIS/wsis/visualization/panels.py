"""Panels of one size for pictures and maps of any size, and what is drawn on the photograph.

H, W of the image, h, w of a map (any size), P, Q height and width of the panel. An ``image`` is
(H, W, 3) uint8 RGB, a ``width`` that of the panel in pixels, a panel (P, Q, 3) uint8 RGB.
"""

from __future__ import annotations

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
    """(h, w) float to (P, Q) float32, bilinearly; what is not finite counts as 0."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float32), posinf=0.0, neginf=0.0)
    resized = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def photo_panel(image: np.ndarray, *, width: int = PANEL_WIDTH) -> np.ndarray:
    """The photograph."""
    return resize_image(image, panel_size(*image.shape[:2], panel_width=width))


def faint_photo(image: np.ndarray, width: int) -> np.ndarray:
    """The photograph in grey, (P, Q, 3) float in 0..255: what lies on it has the only colours."""
    photo = photo_panel(image, width=width)
    return np.repeat((photo @ np.array(_GREY_WEIGHTS))[:, :, None], 3, axis=2)


def blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    """Colours (P, Q, 3) in 0..255 laid over others, with the share ``alpha``, as uint8."""
    mixed = below * (1.0 - alpha) + above * alpha
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def heat_panel(
    image: np.ndarray, values: np.ndarray, *, highest: float = 1.0, width: int = PANEL_WIDTH
) -> np.ndarray:
    """A map of one class (CAM, response map) over the photograph, from blue (0) to red.

    Args:
        image: the photograph.
        values: (h, w) float, not negative.
        highest: value that is red; what is not positive counts as 1.
        width: of the panel.
    """
    photo = faint_photo(image, width)
    heat = resize_map(values, photo.shape[:2]) / (highest if highest > 0 else 1.0)
    heat = np.clip(heat, 0.0, 1.0)
    return blend(photo, 255.0 * colormaps["turbo"](heat)[:, :, :3], 0.35 + 0.35 * heat[:, :, None])


def mark_places(panel: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A copy of a panel with crosses, white with a dark rim: peaks.

    Args:
        panel: to be marked.
        places: (n, 2) float (y, x), shares of the height and width in 0..1.
    """
    marked = panel.copy()
    height, width = panel.shape[:2]
    for thick, color in ((2, 20), (1, 255)):
        for y, x in np.asarray(places, dtype=np.float64).reshape(-1, 2):
            row, column = int(y * (height - 1) + 0.5), int(x * (width - 1) + 0.5)
            reach = _ARM + thick - 1
            for tall, wide in ((reach, thick - 1), (thick - 1, reach)):
                rows = slice(max(0, row - tall), row + tall + 1)
                marked[rows, max(0, column - wide) : column + wide + 1] = color
    return marked


def side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    """Panels, at least one, in a row on white: (tallest P, sum of Q and gaps, 3) uint8."""
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + _GAP * (len(panels) - 1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for panel in panels:
        canvas[: panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + _GAP
    return canvas
