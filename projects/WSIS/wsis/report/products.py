"""How the arrays of artifacts look: one entry for each kind of array, whatever stage wrote it.

A method that stores an array of a new kind adds an entry with `register_view`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsis.data.proposals.store import proposals_from_artifact
from wsis.evaluation.predictions import InstancePair, InstancePrediction, Truth
from wsis.layers.region_overlap import overlap_with_masks
from wsis.methods.boxcaseg.box_masks import TRUSTED
from wsis.methods.boxcaseg.proxy_masks import resize_map as paste_map
from wsis.report.instances import Found, sort_found
from wsis.visualization.instances import (
    instance_labels,
    instances_panel,
    matched_colors,
    weak_panel,
)
from wsis.visualization.panels import (
    cluster_panel,
    displacement_panel,
    heat_panel,
    label_panel,
    longest_displacement,
    mark_places,
    probability_panel,
)
from wsis.visualization.resizing import PANEL_WIDTH

Arrays = Mapping[str, np.ndarray]
_MOST_CLASSES = 4
_FIRST_PROPOSALS = 12
_MOST_PEAKS = 6


@dataclass(frozen=True)
class Picture:
    """A panel of the report.

    Attributes:
        panel: (P, Q, 3) uint8 RGB.
        title: which kind it is, as in the explanations.
        note: what there is to say of this one.
    """

    panel: np.ndarray
    title: str
    note: str = ""


@dataclass(frozen=True)
class Scene:
    """What every view of an image may use.

    Attributes:
        record: dataset dict.
        image: (H, W, 3) uint8 RGB.
        classes: class names.
        truth: ground truth, None where there is none.
        width: of the panels, pixels.
        stage: that made the arrays, for people.
    """

    record: Mapping[str, Any]
    image: np.ndarray
    classes: tuple[str, ...]
    truth: Truth | None
    width: int = PANEL_WIDTH
    stage: str = ""


@dataclass(frozen=True)
class View:
    """How arrays become pictures.

    Attributes:
        needs: names of arrays that an artifact must have for this view.
        title: what it is, in general.
        explanation: one sentence for the reader.
        draw: the scene and the arrays to pictures.
    """

    needs: tuple[str, ...]
    title: str
    explanation: str
    draw: Callable[[Scene, Arrays], list[Picture]]


def draw_found(scene: Scene, found: Found, title: str) -> Picture:
    """Instances on the photograph; where there is ground truth, coloured as what they found."""
    colors = None
    if scene.truth is not None:
        prediction = InstancePrediction(found.classes, found.scores, found.masks)
        colors = matched_colors(InstancePair("", prediction, scene.truth).iou)
    labels = instance_labels(found.classes, scene.classes, found.scores)
    panel = instances_panel(
        scene.image,
        found.masks,
        labels,
        colors=colors,
        ignore=found.ignore,
        width=scene.width,
    )
    count = len(found.classes)
    return Picture(panel, title, f"{count or 'no'} instance{'' if count == 1 else 's'}")


def draw_truth(scene: Scene) -> list[Picture]:
    """The true objects, none if there is no ground truth."""
    if scene.truth is None:
        return []
    truth = scene.truth
    labels = instance_labels(truth.classes, scene.classes)
    panel = instances_panel(scene.image, truth.masks, labels, ignore=truth.void, width=scene.width)
    count = len(truth.classes)
    return [Picture(panel, "ground truth", f"{count or 'no'} object{'' if count == 1 else 's'}")]


def _draw_cam(scene: Scene, arrays: Arrays) -> list[Picture]:
    maps = arrays["high_res"] if "high_res" in arrays else arrays["cam"]
    keys = arrays["keys"].tolist()
    shown = [
        Picture(heat_panel(scene.image, one, width=scene.width), "CAM", scene.classes[key])
        for key, one in zip(keys[:_MOST_CLASSES], maps, strict=False)
    ]
    left_out = len(keys) - len(shown)
    if left_out > 0:
        last = shown[-1]
        shown[-1] = Picture(last.panel, last.title, f"{last.note} ({left_out} more classes)")
    return shown


def _draw_label(scene: Scene, arrays: Arrays) -> list[Picture]:
    label = arrays["label"]
    unknown = f"{100 * float((label == 255).mean()):.0f}% unknown"
    panel = label_panel(scene.image, label, len(scene.classes), width=scene.width)
    return [Picture(panel, scene.stage, unknown)]


def _draw_boundary(scene: Scene, arrays: Arrays) -> list[Picture]:
    return [
        Picture(
            probability_panel(scene.image, arrays["boundary"], width=scene.width), "boundary map"
        )
    ]


def _draw_displacement(scene: Scene, arrays: Arrays) -> list[Picture]:
    field = arrays["displacement"]
    note = f"full colour: {longest_displacement(field):.1f} cells"
    return [
        Picture(displacement_panel(scene.image, field, width=scene.width), "displacement", note)
    ]


def _draw_clusters(scene: Scene, arrays: Arrays) -> list[Picture]:
    clusters = arrays["clusters"]
    count = len(np.unique(clusters))
    note = f"{count} cluster{'' if count == 1 else 's'}"
    return [Picture(cluster_panel(scene.image, clusters, width=scene.width), "clusters", note)]


def _draw_proposals(scene: Scene, arrays: Arrays) -> list[Picture]:
    regions = proposals_from_artifact(arrays).regions
    first = regions[:_FIRST_PROPOSALS].decode()
    order = np.argsort(-first.sum(axis=(1, 2)), kind="stable")  # small ones above large ones
    panel = instances_panel(scene.image, first[order], None, width=scene.width)
    pictures = [Picture(panel, "first proposals", f"{len(first)} of {len(regions)}")]
    if scene.truth is None or len(scene.truth.masks) == 0:
        return pictures
    iou = overlap_with_masks(regions, np.asarray(scene.truth.masks, dtype=bool))  # (R, K)
    best = iou.argmax(axis=0)
    values = iou[best, np.arange(len(best))]
    labels = [f"{value:.2f}" for value in values]
    panel = instances_panel(scene.image, regions.decode(best), labels, width=scene.width)
    pictures.append(Picture(panel, "best proposals", f"mean IoU {values.mean():.2f}"))
    return pictures


def _draw_activation(scene: Scene, arrays: Arrays) -> list[Picture]:
    values, peaks = arrays["peak_values"], arrays["peaks"]
    order = np.argsort(-values, kind="stable").tolist()
    pictures = []
    for p in order[:_MOST_PEAKS]:
        activation = np.asarray(arrays["activation"][p], dtype=np.float32)
        panel = heat_panel(scene.image, activation, width=scene.width)
        panel = mark_places(panel, arrays["peak_places"][p : p + 1])
        kept = "" if p in arrays["instance_peaks"] else ", no instance"
        note = f"{scene.classes[peaks[p, 0]]} {values[p]:.3g}{kept}"
        pictures.append(Picture(panel, "instance activation map", note))
    return pictures


def _draw_instances(scene: Scene, arrays: Arrays) -> list[Picture]:
    ignore = arrays["ignore"].any(axis=0) if "ignore" in arrays else None
    found = Found(arrays["classes"], arrays["scores"], arrays["masks"], ignore)
    found = sort_found(found).above(np.nextafter(np.float32(0), np.float32(1)))
    return [draw_found(scene, found, "instances")]


def _draw_box_maps(scene: Scene, arrays: Arrays) -> list[Picture]:
    values = np.zeros(scene.image.shape[:2], dtype=np.float32)
    for level, (x0, y0, x1, y1) in zip(arrays["levels"], arrays["boxes"].tolist(), strict=True):
        window = values[y0:y1, x0:x1]
        np.maximum(window, paste_map(level, window.shape) / 255, out=window)
    return [Picture(heat_panel(scene.image, values, width=scene.width), "maps in boxes")]


def _draw_confidence(scene: Scene, arrays: Arrays) -> list[Picture]:
    confidence = arrays["confidence"]
    sure = confidence > TRUSTED
    colors = np.where(sure[:, None], (60, 200, 90), (235, 80, 60))
    nowhere = np.full((len(confidence), 2), np.nan)
    panel = weak_panel(
        scene.image,
        np.asarray(arrays["boxes"], dtype=np.float64).reshape(-1, 4),
        nowhere,
        [f"{value:.2f}" for value in confidence],
        colors=colors,
        width=scene.width,
    )
    return [Picture(panel, "confidence", f"{int(sure.sum())} of {len(sure)} above {TRUSTED}")]


def _draw_class_maps(scene: Scene, arrays: Arrays) -> list[Picture]:
    pictures = []
    maps = np.asarray(arrays["class_maps"], dtype=np.float32)
    for class_id, values in zip(arrays["map_classes"][:_MOST_CLASSES], maps, strict=False):
        positive, own = np.maximum(values, 0.0), arrays["peaks"][:, 0] == class_id
        panel = heat_panel(scene.image, positive, highest=float(positive.max()), width=scene.width)
        panel = mark_places(panel, arrays["peak_places"][own])
        note = f"{scene.classes[class_id]}, highest {values.max():.3g}"
        pictures.append(Picture(panel, "class response map", note))
    return pictures


def _draw_responses(scene: Scene, arrays: Arrays) -> list[Picture]:
    pictures = []
    values, peaks = arrays["peak_values"], arrays["peaks"]
    for p in np.argsort(-values, kind="stable")[:_MOST_PEAKS].tolist():
        # The root shows what is faint beside the few brightest pixels.
        response = np.sqrt(np.asarray(arrays["responses"][p], dtype=np.float32))
        panel = heat_panel(scene.image, response, highest=float(response.max()), width=scene.width)
        panel = mark_places(panel, arrays["peak_places"][p : p + 1])
        note = f"{scene.classes[peaks[p, 0]]} {values[p]:.3g}"
        pictures.append(Picture(panel, "peak response map", note))
    left_out = len(values) - len(pictures)
    if left_out > 0:
        last = pictures[-1]
        pictures[-1] = Picture(last.panel, last.title, f"{last.note} ({left_out} more peaks)")
    return pictures


def _draw_proposal_clusters(scene: Scene, arrays: Arrays) -> list[Picture]:
    labels, ids = arrays["cluster_labels"], arrays["ids"]
    sizes = np.bincount(ids[ids > 0])
    sizes = sizes[sizes > 0]
    objects = np.flatnonzero(labels >= 0)
    pictures = []
    for row in objects[:_MOST_PEAKS].tolist():
        share = np.asarray(arrays["cluster_maps"][row], dtype=np.float32)
        panel = heat_panel(scene.image, share, highest=1.0, width=scene.width)
        note = f"{scene.classes[labels[row]]}, {sizes[row]} proposals"
        pictures.append(Picture(panel, "proposal cluster", note))
    left_out = len(objects) - len(pictures)
    if left_out > 0:
        last = pictures[-1]
        pictures[-1] = Picture(last.panel, last.title, f"{last.note} ({left_out} more clusters)")
    return pictures


_VIEWS: list[View] = [
    View(
        ("boxes", "levels"),
        "maps in boxes",
        "What the segmenter makes of each box, stretched from blue (its lowest value) to red (its "
        "highest); half way is the edge of the mask.",
        _draw_box_maps,
    ),
    View(
        ("boxes", "confidence"),
        "confidence",
        "How well each mask fills its given box: green masks teach Mask R-CNN, red ones teach it "
        "their box only (where MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE is 0.95).",
        _draw_confidence,
    ),
    View(
        ("keys", "cam"),
        "CAM",
        "Class activation map of one tag of the image, from blue (0) to red (1, its maximum): "
        "where the classifier saw the class.",
        _draw_cam,
    ),
    View(
        ("map_classes", "class_maps", "peaks", "peak_places"),
        "class response map",
        "Raw score of a class in each cell, from blue (0 or less) to red (its maximum); crosses "
        "are the peaks that count.",
        _draw_class_maps,
    ),
    View(
        ("responses", "peaks", "peak_places", "peak_values"),
        "peak response map",
        "Where in the photograph one peak (the cross) comes from, the highest peaks first; the "
        "root of the map, from blue (0) to red (its maximum).",
        _draw_responses,
    ),
    View(
        ("cluster_maps", "cluster_labels", "ids"),
        "proposal cluster",
        "Proposals that were grouped around one peak or point: the share of them that cover a "
        "place, from blue (none) to red (all).",
        _draw_proposal_clusters,
    ),
    View(
        ("label",),
        "label map",
        "A label for each pixel: coloured is a class, dark is background, grey is unknown and "
        "teaches nothing.",
        _draw_label,
    ),
    View(
        ("boundary",),
        "boundary map",
        "Probability that a class boundary runs through a cell, from black (0) to white (1).",
        _draw_boundary,
    ),
    View(
        ("displacement",),
        "displacement",
        "Where each cell points for the centre of its object: hue is the direction (see the "
        "wheel), saturation the length.",
        _draw_displacement,
    ),
    View(
        ("clusters",),
        "clusters",
        "Cells whose displacements end in the same centre, whatever their class.",
        _draw_clusters,
    ),
    View(
        ("members", "num_atoms"),
        "proposals",
        "Regions that may be objects: the first ones in their own order, and, where there is "
        "ground truth, the one that fits each true object best, with its IoU.",
        _draw_proposals,
    ),
    View(
        ("activation", "instance_peaks", "peaks", "peak_places", "peak_values"),
        "instance activation map",
        "A peak response map, filled: probability that a pixel belongs to the object of the cross, "
        "from blue (0) to red (1), the highest peaks first.",
        _draw_activation,
    ),
    View(
        ("classes", "scores", "masks"),
        "instances",
        "Instance masks with class and score, in the colour of the true object that each overlaps "
        "where ground truth exists; hatched pixels train nothing.",
        _draw_instances,
    ),
]
TRUTH_EXPLANATION = "The true objects, for comparison; hatched pixels are void."


def register_view(view: View) -> View:
    """Make a further kind of array visible in reports."""
    _VIEWS.append(view)
    return view


def views_of(arrays: Arrays) -> list[View]:
    """The views for which an artifact has all arrays, in the order of registration."""
    return [view for view in _VIEWS if all(name in arrays for name in view.needs)]
