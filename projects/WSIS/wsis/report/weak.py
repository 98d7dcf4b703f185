"""What a method was given: boxes, points or tags, drawn on the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode

from wsis.engine.manifest import MANIFEST
from wsis.errors import WSISError
from wsis.report.products import Picture, Scene
from wsis.report.runs import RunFolder, find_runs
from wsis.visualization.instances import weak_panel

GIVEN_EXPLANATION = "What the stages were given, and nothing more: boxes or points with classes."


def given_level(runs: Sequence[RunFolder]) -> str:
    """The most that weak stages among ``runs`` look at: "box", "point", or "" for tags alone."""
    levels = {run.supervision for run in runs}
    return next((level for level in ("box", "point") if level in levels), "")


def level_around(path: Path) -> str:
    """`given_level` of the pipeline in whose run folder ``path`` lies; "" elsewhere."""
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return ""
    try:
        return given_level(find_runs(folder.resolve().parent))
    except WSISError:  # a damaged neighbour is no reason to draw nothing
        return ""


def draw_weak(scene: Scene, *, boxes: bool = True, points: bool = True) -> Picture:
    """Boxes and points of an image, or, where it has no annotations, its tags."""
    annotations = [a for a in scene.record.get("annotations", ()) if not a.get("iscrowd")]
    if not annotations:
        annotations = [{"category_id": i} for i in scene.record.get("image_labels", ())]
    corners = np.full((len(annotations), 4), np.nan)
    places = np.full((len(annotations), 2), np.nan)
    for row, annotation in enumerate(annotations):
        if boxes and "bbox" in annotation:
            mode = annotation["bbox_mode"]
            corners[row] = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
        if points and "point" in annotation:
            places[row] = annotation["point"]
    names = [scene.classes[a["category_id"]] for a in annotations]
    panel = weak_panel(scene.image, corners, places, names, width=scene.width)
    return Picture(panel, "annotations")


def draw_given(scene: Scene, level: str) -> list[Picture]:
    """The boxes or points that a method was given; nothing where it had tags alone.

    Nothing either where the image's record has none, as in a folder of images.

    Args:
        scene: the image.
        level: of `given_level`.
    """
    key = {"box": "bbox", "point": "point"}.get(level)
    if not any(key in annotation for annotation in scene.record.get("annotations", ())):
        return []
    panel = draw_weak(scene, boxes=level == "box", points=level == "point").panel
    return [Picture(panel, f"given {'boxes' if level == 'box' else 'points'}")]
