"""How products look: the views that several methods share, and all that there are."""

from __future__ import annotations

import numpy as np

from wsis.data.proposals.store import proposals_from_artifact
from wsis.evaluation.predictions import InstancePrediction
from wsis.layers.region_overlap import overlap_with_masks
from wsis.methods.boxcaseg.views import VIEWS as BOXCASEG
from wsis.methods.cim.views import VIEWS as CIM
from wsis.methods.iam.views import VIEWS as IAM
from wsis.methods.irnet.views import VIEWS as IRNET
from wsis.visualization.canvas import (
    Arrays,
    Canvas,
    Picture,
    View,
    draw_found,
    highest_peaks,
    note_rest,
    view,
)
from wsis.visualization.instances import instances_panel
from wsis.visualization.panels import mark_places

_MOST_CLASSES = 4
_FIRST_PROPOSALS = 12


@view("CAM", "keys", "cam")
def cam(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Class activation map of one tag of the image, from blue (0) to red (1, its maximum): where
    the classifier saw the class.
    """
    maps = arrays["high_res"] if "high_res" in arrays else arrays["cam"]
    keys = arrays["keys"].tolist()
    shown = [
        Picture(canvas.heat(one), note=canvas.classes[key])
        for key, one in zip(keys[:_MOST_CLASSES], maps, strict=False)
    ]
    return note_rest(shown, len(keys) - len(shown), "classes")


@view("class response map", "map_classes", "class_maps", "peaks", "peak_places")
def class_maps(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Raw score of a class in each cell, from blue (0 or less) to red (its maximum); crosses are
    the peaks that count.
    """
    pictures = []
    maps = np.asarray(arrays["class_maps"], dtype=np.float32)
    for class_id, values in zip(arrays["map_classes"][:_MOST_CLASSES], maps, strict=False):
        positive, own = np.maximum(values, 0.0), arrays["peaks"][:, 0] == class_id
        panel = canvas.heat(positive, highest=float(positive.max()))
        note = f"{canvas.classes[class_id]}, highest {values.max():.3g}"
        pictures.append(Picture(mark_places(panel, arrays["peak_places"][own]), note=note))
    return pictures


@view("peak response map", "responses", "peaks", "peak_places", "peak_values")
def responses(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Where in the photograph one peak (the cross) comes from, the highest peaks first; the root
    of the map, from blue (0) to red (its maximum).
    """
    pictures = []
    for p, note in highest_peaks(canvas, arrays):
        # The root shows what is faint beside the few brightest pixels.
        response = np.sqrt(np.asarray(arrays["responses"][p], dtype=np.float32))
        panel = canvas.heat(response, highest=float(response.max()))
        pictures.append(Picture(mark_places(panel, arrays["peak_places"][p : p + 1]), note=note))
    return note_rest(pictures, len(arrays["peaks"]) - len(pictures), "peaks")


@view("proposals", "members", "num_atoms")
def proposals(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Regions that may be objects: the first ones in their own order, and, where there is ground
    truth, the one that fits each true object best, with its IoU.
    """
    regions = proposals_from_artifact(arrays).regions.resize(canvas.image.shape[:2])
    first = regions[:_FIRST_PROPOSALS].decode()
    order = np.argsort(-first.sum(axis=(1, 2)), kind="stable")  # small ones above large ones
    panel = instances_panel(canvas.photo, first[order])
    pictures = [Picture(panel, "first proposals", f"{len(first)} of {len(regions)}")]
    if canvas.truth is None or len(canvas.truth.masks) == 0:
        return pictures
    iou = overlap_with_masks(regions, np.asarray(canvas.truth.masks, dtype=bool))  # (R, K)
    best = iou.argmax(axis=0)
    values = iou[best, np.arange(len(best))]
    labels = [f"{value:.2f}" for value in values]
    panel = instances_panel(canvas.photo, regions.decode(best), labels)
    return [*pictures, Picture(panel, "best proposals", f"mean IoU {values.mean():.2f}")]


def accepted(arrays: Arrays) -> InstancePrediction:
    """The instances of an artifact, best first; score 0 is what the stage rejected."""
    found = InstancePrediction.of_artifact(arrays).ranked()
    return found.take(found.scores > 0)


@view("instances", "classes", "scores", "masks")
def instances(canvas: Canvas, arrays: Arrays) -> list[Picture]:
    """Instance masks with class and score, in the colour of the true object that each overlaps
    where ground truth exists; hatched pixels train nothing.
    """
    return [draw_found(canvas, accepted(arrays))]


# In the order in which the pictures of one artifact stand.
_VIEWS: list[View] = [
    *(cam, class_maps, responses, proposals),
    *(*BOXCASEG, *CIM, *IRNET, *IAM),
    instances,
]


def views_of(arrays: Arrays) -> list[View]:
    """The views for which an artifact has all arrays, in their order."""
    return [view for view in _VIEWS if all(name in arrays for name in view.needs)]
