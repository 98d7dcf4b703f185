"""How IAM's products look."""

from __future__ import annotations

import numpy as np

from wsis.visualization.canvas import Arrays, Canvas, Picture, view
from wsis.visualization.panels import mark_places

_MOST_PEAKS = 6


@view(
    "instance activation map",
    *("activation", "instance_peaks", "peaks", "peak_places", "peak_values"),
)
def activations(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """A peak response map, filled: probability that a pixel belongs to the object of the cross,
    from blue (0) to red (1), the highest peaks first.
    """
    values, peaks = arrays["peak_values"], arrays["peaks"]
    pictures = []
    for p in np.argsort(-values, kind="stable")[:_MOST_PEAKS].tolist():
        panel = mark_places(canvas.heat(arrays["activation"][p]), arrays["peak_places"][p : p + 1])
        kept = "" if p in arrays["instance_peaks"] else ", no instance"
        note = f"{canvas.classes[peaks[p, 0]]} {values[p]:.3g}{kept}"
        pictures.append(Picture(panel, note=note))
    return pictures


VIEWS = (activations,)
