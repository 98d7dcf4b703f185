"""``tools/check_data.py``: what a data set holds, what is wrong with it, what it can train."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from wsis.commands import check_output, writing
from wsis.data.builtin import get_dataset_dicts, is_salient, require_dataset
from wsis.data.checks import short
from wsis.data.files import write_json
from wsis.data.problems import TOLD, Problems
from wsis.data.supervision import same_tags
from wsis.data.user import parse_entry, recognize, register_dataset
from wsis.data.working_size import MAX_PIXELS
from wsis.errors import DataError, UsageError, explain
from wsis.report.survey import Survey, survey

FEW = 10  # examples of a class
SMALL = 16  # pixels, the side of a square
_COLUMNS = ("images", "objects", "masks", "boxes", "points")
# What learns from which column of the table; the first of the first column that has something is
# proposed.
PIPELINES = {
    "points": (
        "points_photos",
        "cim_photos_point",
        "iam_photos_point",
    ),
    "boxes": (
        "boxcaseg_ready",
        "boxes_photos",
        "boxinst_photos",
        "boxcaseg_photos",
    ),
    "images": (
        "cam_instances_photos",
        "irnet_photos",
        "prm_photos",
        "prm_photos_response",
        "iam_photos",
        "cim_photos",
        "prompted_masks_photos",
    ),
    "masks": ("supervised_photos",),
}
_OF_TAGS = ("cim_photos_point",)  # of those for points: its classifier learns from tags
_ALSO = {"boxes": ", the last with DATA.SALIENT: a few objects with masks (datasets/README.md)"}


def _entry(text: str) -> dict[str, Any]:
    """The entry for a path or a description; UsageError where a description is wrong."""
    entry = parse_entry(text, "ENTRY")
    if not isinstance(entry, str):
        return dict(entry)
    path = Path(text).expanduser()
    try:
        if not text or not path.exists():
            require_dataset(text)
        return recognize(path, "TRAIN")
    except UsageError as error:  # the command line is right, the data are not
        raise DataError(str(error)) from None


def _register(text: str) -> str:
    """The name under which the data set is registered."""
    known = MetadataCatalog.get(text).as_dict() if text in DatasetCatalog else {}
    if "json_file" in known:  # of Detectron2, which would look at nothing
        entry = {"FORMAT": "coco", "JSON": known["json_file"], "IMAGES": known["image_root"]}
    elif known:
        return text
    else:
        entry = _entry(text)
    return register_dataset({"NAME": "ENTRY"} | entry, where="ENTRY", anew="NAME" not in entry)


class Check:
    """What is known of a data set; empty where it cannot be read.

    Args:
        text: ENTRY of the command line.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.problems = Problems()
        self.survey = Survey()
        self.classes: tuple[str, ...] = ()
        self.salient = False

    def read(self, decode: bool) -> None:
        """Read the data set and all its files.

        Raises:
            WSISError: nothing of it can be read.
        """
        name = _register(self.text)
        about = MetadataCatalog.get(name)
        try:
            records = get_dataset_dicts(name, on_error="collect")
        finally:  # what was found before it ended
            self.problems = about.get("problems", self.problems)
        self.salient = is_salient(name)
        self.classes = tuple(about.get("thing_classes", ()))
        self.survey = survey(records, self.classes, self.problems, decode=decode)
        if not self.survey.usable:
            raise DataError(
                f"{self.text}: nothing to train on is left: no image has a tag, a point, a box or "
                "a mask; the problems say why, or label some images"
            )

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        examples = self.survey.examples
        kinds = {kind: self.survey.total(kind) for kind in _COLUMNS[1:]}
        return {
            "usable": self.survey.usable,
            "images": len(self.survey.records),
            "classes": {name: examples[index] for index, name in enumerate(self.classes)},
            **kinds,
            "left_out": self.problems.left_out,
            "problems": [problem.as_dict() for problem in self.problems.found],
        }


def check(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_output("--json", args.json, args.entry)
    if args.config_file:
        from wsis.engine.pipeline import load_pipeline

        load_pipeline(args.config_file, ())
    found, failure, explained = Check(args.entry), None, None
    try:
        found.read(args.decode)
    except Exception as error:
        failure, explained = error, explain(error)
        if explained is None:
            raise
    if args.pictures and found.survey.records:
        from wsis.report.data_pictures import draw

        draw(found.survey.records, found.classes, found.problems, args)
    sys.stdout.write("".join(f"{line}\n" for line in describe(found)))
    if explained:
        found.problems.error(explained[0], file=args.entry, left_out=0)
    if args.json:
        with writing(args.json, "--json"):
            write_json(args.json, found.as_dict())
    if failure is not None:
        raise failure


def describe(found: Check) -> Iterator[str]:
    """What there is to say, line by line."""
    counts, total = found.survey.counts, found.survey.total
    if found.survey.records:
        rows = [
            [_printable(name), *(counts[column][index] for column in _COLUMNS)]
            for index, name in enumerate(found.classes)
        ]
        rows.append(["all", len(found.survey.records), *(total(c) for c in _COLUMNS[1:])])
        yield tabulate(rows, headers=("class", *_COLUMNS), disable_numparse=[0])
        yield from ("", *_notes(found))
    problems = found.problems
    for level, count in (("error", problems.errors), ("warning", problems.warnings)):
        if count:
            yield f"\n{_many(count, level)}:"
            yield problems.summary(level)
    if problems.left_out:
        yield f"\nleft out: {problems.left_out}"
    if problems.errors + problems.warnings > TOLD:
        yield "--json FILE lists all of them"
    if found.survey.usable:
        yield from ("", *_trains(found))


def _printable(text: str) -> str:
    return text if text.isprintable() else short(text)


def _many(count: int, what: str, plural: str = "") -> str:
    return f"{count} {what if count == 1 else plural or what + 's'}"


def _notes(found: Check) -> Iterator[str]:
    """What is no fault, but good to know."""
    sizes = [(record["height"], record["width"]) for record in found.survey.records]
    least, most = min(sizes, key=math.prod), max(sizes, key=math.prod)
    spread = "" if least == most else f" to {most[1]} x {most[0]}"
    yield f"images are {least[1]} x {least[0]}{spread} pixels (width x height)"
    large = sum(math.prod(size) > MAX_PIXELS for size in sizes)
    if large:
        yield (
            f"{_many(large, 'image')} above INPUT.MAX_PIXELS ({MAX_PIXELS}): worked on at that "
            "size, so small objects become smaller"
        )
    if found.survey.crowds:
        yield (
            f"{_many(found.survey.crowds, 'region')} with iscrowd: no objects, and nothing learns "
            "from them; objects have iscrowd 0"
        )
    objects = found.survey.total("objects")
    for column, one in (("boxes", "box"), ("points", "point")):
        total = found.survey.total(column)
        if 0 < total < objects and found.survey.total("masks") != objects:
            yield f"objects without a {one}, which what needs one misses: {objects - total}"
    small = sum(side < SMALL for side in found.survey.sides)
    if small:
        yield (
            f"{small} of {_many(len(found.survey.sides), 'box', 'boxes')} smaller than {SMALL} x "
            f"{SMALL} pixels, which networks hardly see: cut the images into tiles, or enlarge them"
        )
    bare = sum(not r["image_labels"] for r in found.survey.records)
    if bare and not found.salient:
        yield f"{_many(bare, 'image')} without any label: right if they show none of the classes"
    examples = found.survey.examples
    names = enumerate(found.classes)
    few = [f"{_printable(name)} {examples[i]}" for i, name in names if examples[i] < FEW]
    if few:
        more = f", ... and {len(few) - TOLD} more" if len(few) > TOLD else ""
        yield f"classes with fewer than {FEW} examples: {', '.join(few[:TOLD])}{more}"
    copies = found.survey.copies
    if copies:
        first = " = ".join(str(record["file_name"]) for record in copies[0])
        yield f"{_many(len(copies), 'picture')} more than once, for example {first}"
        apart = sum(len({tuple(r["image_labels"]) for r in group}) > 1 for group in copies)
        if apart:
            yield f"{apart} of them with different tags: one copy teaches what the other denies"


def _trains(found: Check) -> Iterator[str]:
    """What can learn from these labels, and the command that starts it."""
    entry = shlex.quote(found.text)
    skip = " WSIS.ON_ERROR skip" if found.problems.errors else ""
    if skip:
        yield f"training stops at these errors;{skip} leaves out what they name"
    if found.salient:
        yield f"these are single objects for the pipelines of boxes: DATA.SALIENT {entry}"
        return
    shown = {kind: names for kind, names in PIPELINES.items() if found.survey.total(kind)}
    if same_tags(found.survey.records):
        shown.pop("images", None)
        shown = {kind: [n for n in names if n not in _OF_TAGS] for kind, names in shown.items()}
        advice = "add images without it, or give points or boxes (docs/own_data.md)"
        yield (
            "every image has the same tags, and nothing learns what a class looks like from such: "
            + ("pipelines of tags are left out" if shown else advice)
        )
    if not shown:
        return
    first, *_ = next(iter(shown.values()))
    yield "pipelines in configs/ for these labels:"
    for kind, names in shown.items():
        yield f"  {'tags' if kind == 'images' else kind:8}{', '.join(names)}{_ALSO.get(kind, '')}"
    place = Path(found.text).stem if Path(found.text).exists() else "mine"
    yield (
        "start with\n"
        f"  python train_net.py --config-file configs/{first}.yaml DATA.TRAIN {entry} "
        f"OUTPUT_DIR {shlex.quote('output/' + place)}{skip}"
    )
