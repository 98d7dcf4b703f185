"""Instances on a photograph, drawn by Detectron2's Visualizer.

n instances, H, W of the image, P, Q of the panel, see `wsis.visualization.panels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from detectron2.utils.visualizer import Visualizer

from wsis.visualization.colors import distinct_colors
from wsis.visualization.panels import faint, resize_image, resize_labels

_FONT = 14  # points, at Visualizer's 100 dots per inch
_LETTER = 11.5  # mean width of a letter at that size, pixels
_LINE = 25
_PALE = 0.7  # share of white in the colour of a text
_HATCH_PERIOD = 10
_DEMO_SIDE = 640


def instance_labels(
    classes: np.ndarray, class_names: Sequence[str], scores: np.ndarray | None = None
) -> list[str]:
    """What is written on instances: "bird", or "bird 0.87" where there are scores."""
    names = [class_names[number] for number in classes]
    if scores is None:
        return names
    return [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]


def matched_colors(iou: np.ndarray) -> list[int]:
    """Colour numbers of predictions, so that each looks like the object that it found.

    Row by row of IoUs (n, K), a prediction takes the number of the free object with the largest
    IoU. If that is below 0.1 it gets a number that no object has. The best prediction comes first.
    """
    free, numbers = iou.copy(), []
    fresh = count(iou.shape[1])
    for row in free:
        best = int(row.argmax()) if row.max(initial=0.0) >= 0.1 else next(fresh)
        free[:, best : best + 1] = 0.0
        numbers.append(best)
    return numbers


def hatch(panel: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Grey out a region (P, Q) and draw white diagonals in it: pixels that count for nothing."""
    result = panel.copy()
    result[region] = (0.45 * result[region] + 0.55 * 128).astype(np.uint8)
    rows, columns = np.indices(region.shape)
    result[region & ((rows + columns) % _HATCH_PERIOD < 2)] = (235, 235, 235)
    return result


def _shown(drawing: Visualizer) -> np.ndarray:
    return np.ascontiguousarray(drawing.get_output().get_image())


def _write(drawing: Visualizer, text: str, x: float, y: float, color: Sequence[float]) -> None:
    """Put a text, its middle at x and its top at y, moved if needed so that all of it shows."""
    height, width = drawing.img.shape[:2]
    half_length = _LETTER * len(text) / 2 + 3
    x = width / 2 if 2 * half_length >= width else np.clip(x, half_length, width - half_length)
    y = min(max(y, 1), max(height - _LINE, 0))
    pale = tuple(_PALE + (1 - _PALE) * c for c in color)
    drawing.draw_text(text, (float(x), y), color=pale, font_size=_FONT)


def _draw_label(drawing: Visualizer, mask: np.ndarray, text: str, color: Sequence[float]) -> None:
    rows, columns = np.nonzero(mask)
    top, bottom = int(rows.min()), int(rows.max())
    y = float(np.median(rows)) - _LINE / 2
    if bottom - top < 3 * _LINE:  # a small object: the text stands above or below it
        y = top - _LINE - 2 if top > _LINE + 2 else bottom + 3
    _write(drawing, text, float(np.median(columns)), y, color)


def instances_panel(
    photo: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    colors: Sequence[int] | None = None,
    ignore: np.ndarray | None = None,
) -> np.ndarray:
    """Masks with outlines and names on the photograph in grey, the smaller above the larger.

    Args:
        photo: the photograph.
        masks: (n, H, W) bool; those without pixels are passed over.
        labels: n texts.
        colors: n numbers into `distinct_colors`; 0..n-1 by default.
        ignore: (H, W) bool, pixels that count for nothing, hatched.
    """
    panel = np.round(faint(photo)).astype(np.uint8)
    if ignore is not None and ignore.any():
        panel = hatch(panel, resize_labels(ignore, panel.shape[:2]))
    enlarged = resize_labels(np.asarray(masks, dtype=bool), panel.shape[:2])
    areas = enlarged.sum(axis=(1, 2))
    shown = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i]]
    if not shown:
        return panel
    numbers = list(range(len(enlarged))) if colors is None else list(colors)
    palette = distinct_colors(max(numbers) + 1) / 255.0
    drawing = Visualizer(panel)
    for index in shown:
        color = tuple(palette[numbers[index]])
        drawing.draw_binary_mask(
            enlarged[index].astype(np.uint8), color, edge_color=color, alpha=0.5, area_threshold=0
        )
    for index in shown if labels is not None else ():
        _draw_label(drawing, enlarged[index], labels[index], tuple(palette[numbers[index]]))
    return _shown(drawing)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    *,
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Detections as Detectron2's demo draws them, on the photograph (H, W, 3) at its size.

    Small pictures are enlarged, so that names can be read. Boxes are (n, 4) XYXY in pixels, masks
    (n, H, W) bool.
    """
    factor = max(1.0, _DEMO_SIDE / max(image.shape[:2]))
    if factor > 1:  # Visualizer's own scale would make every object count as small
        size = (round(factor * image.shape[0]), round(factor * image.shape[1]))
        image, boxes = resize_image(image, size), factor * boxes
        masks = None if masks is None else resize_labels(masks, size)
    drawn = Visualizer(image).overlay_instances(
        boxes=boxes,
        labels=list(labels),
        masks=None if masks is None else list(masks.astype(np.uint8)),
        assigned_colors=[tuple(color) for color in distinct_colors(len(labels)) / 255.0],
    )
    return np.ascontiguousarray(drawn.get_image())


def spotlight_panel(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One mask (H, W) in the photograph: inside as it is, outside dim and grey, outlined."""
    inside, outside = resize_labels(mask, photo.shape[:2]), 0.35 * faint(photo)
    panel = np.where(inside[:, :, None], photo, outside).astype(np.uint8)
    if not inside.any():
        return panel
    drawing = Visualizer(panel)
    drawing.draw_binary_mask(
        inside.astype(np.uint8), (1, 1, 1), edge_color=(1, 1, 1), alpha=0.0, area_threshold=0
    )
    return _shown(drawing)


def weak_panel(
    photo: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
    labels: Sequence[str],
    *,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Boxes, points and tags on the photograph, for data sets without masks.

    A label without box and point is a tag of the whole image: it stands at the upper left, each in
    a line.

    Args:
        photo: the photograph.
        boxes: (n, 4) float XYXY in pixels of the panel, NaN where an annotation has none.
        points: (n, 2) float (x, y) likewise.
        labels: n texts.
        colors: (n, 3) in 0..255; different ones by default.
    """
    drawing = Visualizer(photo)
    palette = (distinct_colors(len(labels)) if colors is None else np.asarray(colors)) / 255.0
    line = 1
    for box, point, text, color in zip(boxes, points, labels, palette, strict=True):
        anchor = point + 6
        if np.isfinite(box).all():
            anchor = box[:2]
            drawing.draw_box(box, edge_color=tuple(color), alpha=1.0)
        if np.isfinite(point).all():
            drawing.draw_circle(point, color=tuple(color), radius=5)
        if not np.isfinite(anchor).all():
            anchor, line = np.array([3, line]), line + _LINE
        if text:
            _write(drawing, text, anchor[0] + _LETTER * len(text) / 2, anchor[1], color)
    return _shown(drawing)
