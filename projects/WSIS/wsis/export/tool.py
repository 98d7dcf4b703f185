"""``tools/export.py``: what its command line says is done, and what is told at the end."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

from wsis.commands import check_output
from wsis.data.user import entries_of
from wsis.errors import UsageError
from wsis.export.merge import Merged
from wsis.export.own_files import refuse_existing
from wsis.export.read_labels import Labels, read_labels
from wsis.export.writers import (
    Tracer,
    label_paths,
    write_coco,
    write_labelme,
    write_merged,
    write_yolo,
)

_FOLDERS = {"labelme": write_labelme, "yolo": write_yolo}
_PARTS = {
    "coco-polygons": "one polygon each, the largest first; Label Studio's converter and VIA read "
    "the first only",
    "labelme": "one shape each, of one group_id",
    "yolo": "joined by lines without width",
}
_MERGED = {
    "new": "labels are new annotations, in images that had tags only",
    "keep": "annotations keep the mask that they had",
    "bare": "annotations have no mask",
    "unmatched": "labels are left out: no annotation of their class is at their place",
    "unknown": "labels are left out: the file lacks their image or their class",
    "empty": "labels are left out: a box without a mask",
}
TOLERANCE = 1.0
_FIRST = 5  # images that are named


def _counted(counts: Counter[str], told: dict[str, str]) -> list[str]:
    return [f"{counts[key]} {text}" for key, text in told.items() if counts[key]]


def _said_of_masks(kind: str, counts: Counter[str]) -> list[str]:
    """What became of the masks, and what the format cannot hold."""
    if kind == "coco-rle":
        return ["masks are exact run lengths; Label Studio wants coco-polygons"]
    masks, gone = counts["masks"], "left out" if kind == "yolo" else "boxes"
    told = {
        "several": f"masks have several parts: {_PARTS[kind]}",
        "holes": "holes are cut open: the outline runs to the hole, around and back",
        "empty": f"labels are a box without a mask: they are {gone}",
        "long": f"outlines are absurdly long: these are {gone}; use coco-rle",
    }
    mean = f"{counts['points'] / max(masks, 1):.0f} points a mask"
    said = [f"{masks} masks as {counts['polygons']} polygons, {mean}", *_counted(counts, told)]
    return [*said, "scores and ids have no place in this format"] if kind == "yolo" else said


def _next_step(args: argparse.Namespace, output: Path, labels: Labels) -> str:
    place = shlex.quote(str(output))
    if args.format == "labelme":  # of a folder it lists the images only
        first = next(iter(label_paths(output, labels, ".json")), output)
        return f"labelme {shlex.quote(str(first))}"
    if args.format == "yolo":
        about = shlex.quote(str(output / "data.yaml"))
        return f"yolo segment train data={about} model=yolo11n-seg.pt"
    converter = f"label-studio-converter import coco -i {place} -o tasks.json"
    polygons = f"; Label Studio: {converter}" if args.format == "coco-polygons" else ""
    return f"CVAT: Upload annotations, COCO 1.0{polygons}"


def _write(args: argparse.Namespace, output: Path, labels: Labels, tracer: Tracer) -> list[str]:
    """Write the files; what is to be told of it."""
    told, how = [], None if args.format == "coco-rle" else tracer
    merged = args.merge and Merged(Path(args.merge).expanduser(), labels)
    if args.clean:  # after that, so that no point loses the part on which it lies
        told.append(f"{labels.clean(args.clean)} masks without their small parts and holes")
    if args.format in _FOLDERS:
        told.append(_FOLDERS[args.format](output, labels, tracer, overwrite=args.overwrite))
    elif not merged:
        write_coco(output, labels, how)
    else:
        write_merged(output, args.merge, merged, how)
        masks = len(merged.masks) - merged.counts["new"]
        told.append(f"merged into {args.merge}: {masks} annotations got a mask")
        first = f" (first: {', '.join([*merged.bare][:_FIRST])})"
        told += _counted(merged.counts, _MERGED | {"bare": _MERGED["bare"] + first})
        if not merged.masks and merged.counts["keep"]:
            told.append("nothing is new in it; leave --merge out to write the masks of the labels")
    return [line for line in (*told, *_said_of_masks(args.format, tracer.counts)) if line]


def export(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    output = Path(args.output).expanduser()
    if args.format not in _FOLDERS:
        check_output("--output", output)
        refuse_existing([output], overwrite=args.overwrite)
    elif output.is_file():
        raise UsageError(f"--output {output} is a file; {args.format} wants a folder")
    labels = read_labels(
        args.labels, dataset=args.dataset, source=args.merge, min_score=args.min_score
    )
    if args.format not in _FOLDERS:
        own = [entry.get("JSON") for entry in entries_of(labels.dataset)]
        inputs = filter(None, (labels.path, args.merge, args.dataset, *own))
        check_output("--output", output, *map(os.path.expanduser, inputs))
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    told = _write(args, output, labels, Tracer(tolerance, single=args.format == "yolo"))
    images = labels.file.images
    objects = sum(len(image["annotations"]) for image in images)
    low = f"; {labels.too_low} score too low" if labels.too_low else ""
    said = [
        f"{labels.path}: {objects} objects of {len(labels.file.class_names)} classes in "
        f"{len(images)} images{low}",
        *(f"  {line}" for line in told),
        f"written: {output}",
        f"next: {_next_step(args, output, labels)}",
    ]
    sys.stdout.write("\n".join(said) + "\n")
