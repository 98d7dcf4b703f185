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

_FONT, _SMALLEST = 1 / 40, 11  # points of a letter: share of the panel's width, and at least
# Of those points: mean width of a letter and height of a line, in pixels, at Visualizer's 100 dots
# per inch.
_LETTER, _LINE = 0.82, 1.8
_HIDDEN = 0.2  # of a mask, by a label, at most
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


class _Writer:
    """Writes on a panel (P, Q), in letters that fit it, no text over another.

    Attributes:
        line: height of a line, pixels.
    """

    def __init__(self, drawing: Visualizer) -> None:
        self._drawing, size = drawing, drawing.img.shape[:2]
        self._font = max(_FONT * size[1], _SMALLEST)
        self._taken = np.zeros(size, dtype=bool)  # by texts
        self.line = _LINE * self._font

    def length(self, text: str) -> float:
        """Of a text, pixels."""
        return _LETTER * self._font * len(text)

    def write(
        self, text: str, x: float, y: float, color: Sequence[float], masks: np.ndarray | None = None
    ) -> bool:
        """Put a text, its middle at x and its top at y, moved if needed so that all of it shows.

        Returns:
            whether it is there; not where it would lie on another one, or hide much of one of the
            ``masks`` (n, P, Q).
        """
        (height, width), half = self._taken.shape, self.length(text) / 2 + 3
        x = width / 2 if 2 * half >= width else float(np.clip(x, half, width - half))
        y = min(max(y, 1), max(height - self.line, 0))
        rows = slice(int(y), int(y + self.line) + 1)
        columns = slice(max(int(x - half), 0), int(x + half) + 1)
        if not text or self._taken[rows, columns].any():
            return False
        if masks is not None:
            hidden = np.count_nonzero(masks[:, rows, columns], axis=(1, 2))
            if (hidden > _HIDDEN * np.count_nonzero(masks, axis=(1, 2))).any():
                return False
        self._taken[rows, columns] = True
        pale = tuple(_PALE + (1 - _PALE) * c for c in color)
        self._drawing.draw_text(text, (x, y), color=pale, font_size=self._font)
        return True

    def label(self, masks: np.ndarray, index: int, text: str, color: Sequence[float]) -> None:
        """Name one of the masks (n, P, Q), where there is room.

        That is in the middle of a large object, or else above or below it.
        """
        rows, columns = np.nonzero(masks[index])
        top, bottom, x = int(rows.min()), int(rows.max()), float(np.median(columns))
        places = [top - self.line - 2, bottom + 3]
        if bottom - top >= 3 * self.line:
            places.insert(0, float(np.median(rows)) - self.line / 2)
        any(self.write(text, x, y, color, masks) for y in places)


def instances_panel(
    photo: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    colors: Sequence[int] | None = None,
    ignore: np.ndarray | None = None,
) -> np.ndarray:
    """Masks with outlines on the photograph in grey, the smaller above the larger, and their names.

    A name for which there is no room is left out.

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
    writer = _Writer(drawing)
    for index in shown if labels is not None else ():
        writer.label(enlarged, index, labels[index], tuple(palette[numbers[index]]))
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
    a line. One that would lie on another one is left out.

    Args:
        photo: the photograph.
        boxes: (n, 4) float XYXY in pixels of the panel, NaN where an annotation has none.
        points: (n, 2) float (x, y) likewise.
        labels: n texts.
        colors: (n, 3) in 0..255; different ones by default.
    """
    drawing = Visualizer(photo)
    writer, radius = _Writer(drawing), max(5, photo.shape[1] // 90)
    palette = (distinct_colors(len(labels)) if colors is None else np.asarray(colors)) / 255.0
    line = 1
    for box, point, text, color in zip(boxes, points, labels, palette, strict=True):
        anchor = point + 6
        if np.isfinite(box).all():
            anchor = box[:2]
            drawing.draw_box(box, edge_color=tuple(color), alpha=1.0)
        if np.isfinite(point).all():
            drawing.draw_circle(point, color=tuple(color), radius=radius)
        if not np.isfinite(anchor).all():
            anchor, line = np.array([3, line]), line + writer.line
        writer.write(text, anchor[0] + writer.length(text) / 2, anchor[1], color)
    return _shown(drawing)
