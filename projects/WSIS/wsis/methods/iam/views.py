"""How IAM's products look."""

from __future__ import annotations

from wsis.visualization.canvas import Arrays, Canvas, Picture, highest_peaks, view
from wsis.visualization.panels import mark_places


@view(
    "instance activation map",
    *("activation", "instance_peaks", "peaks", "peak_places", "peak_values"),
)
def activations(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """A peak response map, filled: probability that a pixel belongs to the object of the cross,
    from blue (0) to red (1), the highest peaks first.
    """
    pictures = []
    for p, note in highest_peaks(canvas, arrays):
        panel = mark_places(canvas.heat(arrays["activation"][p]), arrays["peak_places"][p : p + 1])
        kept = "" if p in arrays["instance_peaks"] else ", no instance"
        pictures.append(Picture(panel, note=note + kept))
    return pictures


VIEWS = (activations,)
