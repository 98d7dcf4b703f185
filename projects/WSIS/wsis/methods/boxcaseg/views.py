"""How BoxCaseg's products look."""

from __future__ import annotations

import numpy as np

from wsis.methods.boxcaseg.proxy_masks import resize_map
from wsis.visualization.canvas import Arrays, Canvas, Picture, view
from wsis.visualization.instances import weak_panel


@view("maps in boxes", "boxes", "levels")
def box_maps(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """What the segmenter makes of each box, stretched from blue (its lowest value) to red (its
    highest); half way is the edge of the mask.
    """
    values = np.zeros(canvas.image.shape[:2], dtype=np.float32)
    for level, (x0, y0, x1, y1) in zip(arrays["levels"], arrays["boxes"].tolist(), strict=True):
        window = values[y0:y1, x0:x1]
        np.maximum(window, resize_map(level, window.shape) / 255, out=window)
    return [Picture(canvas.heat(values))]


@view("confidence", "boxes", "confidence")
def confidence(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """How well each mask fills its given box: green masks teach Mask R-CNN, red ones teach it
    their box only (where MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE is the number below the picture).
    """
    values = arrays["confidence"]
    sure = values > canvas.min_confidence
    panel = weak_panel(
        canvas.photo,
        np.asarray(arrays["boxes"], dtype=np.float64).reshape(-1, 4) * canvas.scale,
        np.full((len(values), 2), np.nan),  # no points
        [f"{value:.2f}" for value in values],
        colors=np.where(sure[:, None], (60, 200, 90), (235, 80, 60)),
    )
    note = f"{int(sure.sum())} of {len(sure)} above {canvas.min_confidence:g}"
    return [Picture(panel, note=note)]


VIEWS = (box_maps, confidence)
