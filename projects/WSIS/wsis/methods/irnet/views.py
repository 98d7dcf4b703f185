"""How IRNet's products look.

Fields are (2, h, w) float, (dy, dx): down and right, in cells of their grid.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import hsv_to_rgb

from wsis.visualization.canvas import Arrays, Canvas, Picture, counted, view
from wsis.visualization.colors import distinct_colors, label_colors
from wsis.visualization.panels import blend, faint, resize_labels, resize_map

_MARGIN, _RIM = 6, 2  # of the colour wheel, pixels


@view("label map", "label")
def label(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """A label for each pixel: coloured is a class, dark is background, grey is unknown and teaches
    nothing.
    """
    values = np.asarray(arrays["label"])
    photo = faint(canvas.photo)
    colors = label_colors(len(canvas.classes))[resize_labels(values, photo.shape[:2]) & 255]
    unknown = f"{100 * float((values == 255).mean()):.0f}% unknown"
    return [Picture(blend(photo, colors, 0.75), canvas.stage, unknown)]


@view("boundary map", "boundary")
def boundary(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Probability that a class boundary runs through a cell, from black (0) to white (1)."""
    shown = np.clip(resize_map(arrays["boundary"], canvas.photo.shape[:2]), 0.0, 1.0)
    return [Picture(np.round(255 * colormaps["magma"](shown)[:, :, :3]).astype(np.uint8))]


@view("displacement", "displacement")
def displacement(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Where each cell points for the centre of its object: hue is the direction (see the wheel),
    saturation the length.
    """
    field = arrays["displacement"]
    longest = longest_displacement(field)
    size = canvas.photo.shape[:2]
    enlarged = np.stack([resize_map(component, size) for component in field])
    panel = displacement_colors(enlarged, longest=longest)
    side = min(80, min(size) // 4)
    if side >= 8:
        _draw_wheel(panel, side)
    return [Picture(panel, note=f"full colour: {longest:.1f} cells")]


@view("clusters", "clusters")
def clusters(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Cells whose displacements end in the same centre, whatever their class."""
    photo = faint(canvas.photo)
    numbers, inverse = np.unique(arrays["clusters"], return_inverse=True)
    shown = resize_labels(inverse.reshape(arrays["clusters"].shape), photo.shape[:2])
    panel = blend(photo, distinct_colors(len(numbers))[shown], 0.6)
    return [Picture(panel, note=counted(len(numbers), "cluster"))]


def longest_displacement(field: np.ndarray) -> float:
    """The length that is shown saturated: the 99th percentile, in cells."""
    lengths = np.hypot(*np.nan_to_num(np.asarray(field, dtype=np.float64)))
    return float(np.quantile(lengths, 0.99)) if lengths.size else 0.0


def displacement_colors(field: np.ndarray, *, longest: float) -> np.ndarray:
    """Directions (dy, dx) of a field (2, h, w) as hues, lengths as saturation.

    Right is red (hue 0), up is yellow-green (1/4), left is cyan (1/2), down is violet (3/4);
    no displacement is white. ``longest`` has full saturation; what is not positive counts as 1.
    """
    dy, dx = np.nan_to_num(np.asarray(field, dtype=np.float64))
    hue = np.arctan2(-dy, dx) / (2 * np.pi) % 1.0
    saturation = np.clip(np.hypot(dy, dx) / (longest if longest > 0 else 1.0), 0.0, 1.0)
    rgb = hsv_to_rgb(np.stack([hue % 1.0, saturation, np.ones_like(hue)], axis=-1))
    return np.round(255 * rgb).astype(np.uint8)


def color_wheel(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The legend of `displacement_colors`: the colour at a place is that of pointing there.

    (side, side, 3) uint8 and the disc (side, side) bool outside which it means nothing.
    """
    axis = (np.arange(side) - (side - 1) / 2) / max((side - 1) / 2, 1)
    field = np.stack(np.meshgrid(axis, axis, indexing="ij"))  # (2, side, side): dy, dx
    return displacement_colors(field, longest=1.0), np.hypot(*field) <= 1.0


def _draw_wheel(panel: np.ndarray, side: int) -> None:
    """Put the colour wheel with a dark rim into the lower right corner, in place."""
    outer = side + 2 * _RIM
    margin = min(_MARGIN, min(panel.shape[:2]) - outer)
    corner = panel[panel.shape[0] - outer - margin :, panel.shape[1] - outer - margin :]
    corner = corner[:outer, :outer]
    corner[color_wheel(outer)[1]] = (40, 40, 40)
    colors, disc = color_wheel(side)
    corner[_RIM : _RIM + side, _RIM : _RIM + side][disc] = colors[disc]


VIEWS = (label, boundary, displacement, clusters)
