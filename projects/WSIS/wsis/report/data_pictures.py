"""Images of a data set with their labels, drawn by ``tools/check_data.py --pictures``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from wsis.commands import writing
from wsis.data.artifacts import check_key
from wsis.data.files import atomic_write
from wsis.data.problems import Problems
from wsis.data.salient import SALIENT_KEY, read_salient_mask
from wsis.progress import progress
from wsis.report.sections import make_canvas
from wsis.report.sources import ImageSet, Record, choose, true_objects
from wsis.visualization.canvas import draw_annotations, draw_truth
from wsis.visualization.instances import spotlight_panel
from wsis.visualization.panels import side_by_side

WIDTH = 480


def draw(
    records: Sequence[Record],
    classes: tuple[str, ...],
    problems: Problems,
    args: argparse.Namespace,
) -> None:
    """Write a PNG, called by its key, for some images into the folder ``args.pictures``.

    ``args.images`` are drawn, 0 for all. Those that cannot be are added to the problems.
    """
    images = ImageSet((args.entry,), classes, list(records))
    troubled = {problem.image for problem in problems.found} - {None}
    chosen = sample(images, troubled, args.images or len(records))
    for record in progress(chosen, "pictures", total=len(chosen)):
        path = Path(args.pictures, f"{check_key(record['image_key'])}.png")
        panels: list[np.ndarray] = []
        with problems.leaving_out(file=record["file_name"], image=record["image_id"]):
            panels = _panels(record, images)
        if panels:
            with writing(path, "--pictures"), atomic_write(path, sync=False) as stream:
                Image.fromarray(side_by_side(panels)).save(stream, "PNG")
    sys.stdout.write(f"{len(chosen)} pictures in {Path(args.pictures).resolve()}\n\n")


def sample(images: ImageSet, troubled: set[int | str | None], number: int) -> list[Record]:
    """The images that are in trouble, then some of each class in turn, then any."""
    first = [r for r in images.records if r["image_id"] in troubled]
    of_classes = [
        choose([r for r in images.records if index in r["image_labels"]], number)
        for index in range(len(images.classes))
    ]
    turns = chain.from_iterable(zip_longest(*of_classes))
    order = [r for r in chain(first, turns, choose(images.records, number)) if r is not None]
    return list({record["image_key"]: record for record in order}.values())[:number]


def _panels(record: Record, images: ImageSet) -> list[np.ndarray]:
    """Boxes, points and tags; beside them masks, where there are some."""
    canvas = make_canvas(record, images, WIDTH)
    if SALIENT_KEY in record:
        mask = read_salient_mask(record[SALIENT_KEY]) > 0
        return [canvas.photo, spotlight_panel(canvas.photo, mask)]
    masked = [a for a in canvas.record.get("annotations", ()) if "segmentation" in a]
    if canvas.truth is None and masked:
        truth = true_objects({**canvas.record, "annotations": masked})
        canvas = replace(canvas, truth=truth)
    masks = draw_truth(canvas) if masked or "instance_file_name" in record else []
    return [picture.panel for picture in (draw_annotations(canvas), *masks)]
