"""One panel for each kind of product, on the photograph where that helps.

H, W of the image, h, w of a map (any size), P, Q height and width of the panel. Every function
returns a (P, Q, 3) uint8 RGB picture, enlarged or reduced as `wsis.visualization.resizing` says.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps

from wsis.visualization.colors import (
    color_wheel,
    displacement_colors,
    distinct_colors,
    label_colors,
)
from wsis.visualization.resizing import (
    PANEL_WIDTH,
    panel_size,
    resize_image,
    resize_labels,
    resize_map,
)

_HEAT, _PROBABILITY = "turbo", "magma"
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


def _blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
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
    return _blend(photo, 255.0 * colormaps[_HEAT](heat)[:, :, :3], 0.35 + 0.35 * heat[:, :, None])


def label_panel(
    image: np.ndarray, label: np.ndarray, num_classes: int, *, width: int = PANEL_WIDTH
) -> np.ndarray:
    """A label map over the photograph: background dark, classes coloured, unknown grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (h, w) integers: 0 background, class + 1, 255 unknown.
        num_classes: C.
        width: of the panel, pixels.
    """
    photo = faint_photo(image, width)
    colors = label_colors(num_classes)[resize_labels(np.asarray(label), photo.shape[:2]) & 255]
    return _blend(photo, colors, 0.75)


def probability_panel(
    image: np.ndarray, values: np.ndarray, *, width: int = PANEL_WIDTH
) -> np.ndarray:
    """A map of probabilities (boundaries) by itself, from black (0) to white (1).

    Args:
        image: (H, W, 3) uint8 RGB; only its size counts.
        values: (h, w) float in 0..1.
        width: of the panel, pixels.
    """
    size = panel_size(*image.shape[:2], panel_width=width)
    shown = np.clip(resize_map(values, size), 0.0, 1.0)
    return np.round(255 * colormaps[_PROBABILITY](shown)[:, :, :3]).astype(np.uint8)


def longest_displacement(field: np.ndarray) -> float:
    """The length that `displacement_panel` shows saturated: the 99th percentile, in cells."""
    lengths = np.hypot(*np.nan_to_num(np.asarray(field, dtype=np.float64)))
    return float(np.quantile(lengths, 0.99)) if lengths.size else 0.0


def displacement_panel(
    image: np.ndarray, field: np.ndarray, *, legend: bool = True, width: int = PANEL_WIDTH
) -> np.ndarray:
    """A displacement field: hue is the direction, saturation the length.

    Args:
        image: (H, W, 3) uint8 RGB; only its size counts.
        field: (2, h, w) float, (dy, dx), in cells of its grid.
        legend: draw the colour wheel in the lower right corner.
        width: of the panel, pixels.
    """
    size = panel_size(*image.shape[:2], panel_width=width)
    enlarged = np.stack([resize_map(component, size) for component in field])
    panel = displacement_colors(enlarged, longest=longest_displacement(field))
    side = min(80, min(size) // 4)
    if legend and side >= 8:
        _draw_wheel(panel, side)
    return panel


def _draw_wheel(panel: np.ndarray, side: int, *, margin: int = 6, rim: int = 2) -> None:
    """Put the colour wheel with a dark rim into the lower right corner, in place."""
    outer = side + 2 * rim
    margin = min(margin, min(panel.shape[:2]) - outer)
    corner = panel[panel.shape[0] - outer - margin :, panel.shape[1] - outer - margin :]
    corner = corner[:outer, :outer]
    corner[color_wheel(outer)[1]] = (40, 40, 40)
    colors, disc = color_wheel(side)
    corner[rim : rim + side, rim : rim + side][disc] = colors[disc]


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


def cluster_panel(
    image: np.ndarray, clusters: np.ndarray, *, width: int = PANEL_WIDTH
) -> np.ndarray:
    """A map of cluster numbers over the photograph, neighbouring numbers in different colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        clusters: (h, w) integers, any.
        width: of the panel, pixels.
    """
    photo = faint_photo(image, width)
    numbers, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    shown = resize_labels(inverse.reshape(np.shape(clusters)), photo.shape[:2])
    return _blend(photo, distinct_colors(len(numbers))[shown], 0.6)


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
