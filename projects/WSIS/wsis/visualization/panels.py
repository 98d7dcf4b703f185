"""One panel for each kind of product, on the photograph where that helps.

H, W of the image, h, w of a map (any size), P, Q height and width of the panel. Every function
returns a (P, Q, 3) uint8 RGB picture, enlarged or reduced as `wsis.visualization.resizing` says.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps

from wsis.visualization.resizing import PANEL_WIDTH, panel_size, resize_image, resize_map

_GREY_WEIGHTS = (0.299, 0.587, 0.114)


def photo_panel(image: np.ndarray, *, width: int = PANEL_WIDTH) -> np.ndarray:
    """The photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        width: of the panel, pixels.
    """
    return resize_image(image, panel_size(*image.shape[:2], panel_width=width))


def faint_photo(image: np.ndarray, width: int) -> np.ndarray:
    """The photograph without colour, so that what lies on it has the only colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        width: of the panel, pixels.

    Returns:
        (P, Q, 3) float in 0..255.
    """
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
        image: (H, W, 3) uint8 RGB.
        values: (h, w) float, not negative.
        highest: value that is red; what is not positive counts as 1.
        width: of the panel, pixels.
    """
    photo = faint_photo(image, width)
    heat = resize_map(values, photo.shape[:2]) / (highest if highest > 0 else 1.0)
    heat = np.clip(heat, 0.0, 1.0)
    return blend(photo, 255.0 * colormaps["turbo"](heat)[:, :, :3], 0.35 + 0.35 * heat[:, :, None])


def mark_places(panel: np.ndarray, places: np.ndarray, *, radius: int = 5) -> np.ndarray:
    """Crosses on a panel, white with a dark rim: peaks.

    Args:
        panel: (P, Q, 3) uint8.
        places: (n, 2) float (y, x), shares of the height and width in 0..1.
        radius: length of an arm, pixels.

    Returns:
        (P, Q, 3) uint8, a new array.
    """
    marked = panel.copy()
    height, width = panel.shape[:2]
    for thick, color in ((2, 20), (1, 255)):
        for y, x in np.asarray(places, dtype=np.float64).reshape(-1, 2):
            row, column = int(y * (height - 1) + 0.5), int(x * (width - 1) + 0.5)
            reach = radius + thick - 1
            for tall, wide in ((reach, thick - 1), (thick - 1, reach)):
                rows = slice(max(0, row - tall), row + tall + 1)
                marked[rows, max(0, column - wide) : column + wide + 1] = color
    return marked


def side_by_side(panels: list[np.ndarray], *, gap: int = 8) -> np.ndarray:
    """Panels in a row on white, (tallest P, sum of Q and gaps, 3) uint8.

    Args:
        panels: at least one.
        gap: between two, pixels.
    """
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + gap * (len(panels) - 1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for panel in panels:
        canvas[: panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + gap
    return canvas
