"""What a data set says of itself that cannot be all true: told before anything is trained on it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import sub
from typing import Any, NamedTuple

import numpy as np

from wsis.data.problems import Problems
from wsis.errors import DataError
from wsis.layers.run_lengths import rle_box

Record = dict[str, Any]
Corners = tuple[float, float, float, float]
Form = Callable[[float, float, float, float], Corners]
_LEAST_IOU = 0.5  # of a stated box and that of its mask
ROUNDING = 2.0  # pixels by which they may differ in any case
_OUTSIDE = 1.0  # pixel by which a box may reach beyond its image
_XYWH = "[x, y, width, height]"
_SHARE = 1.01  # of a side; a number that is no larger may be one
# Other ways to write a box, as the corners x0, y0, x1, y1 of what is written a, b, c, d.
_FORMS: dict[str, Form] = {
    "[x0, y0, x1, y1]": lambda a, b, c, d: (a, b, c, d),
    "[y0, x0, y1, x1]": lambda a, b, c, d: (b, a, d, c),
    "[centre x, centre y, width, height]": lambda a, b, c, d: (
        a - c / 2,
        b - d / 2,
        a + c / 2,
        b + d / 2,
    ),
}
_AS_XYWH = {  # what becomes of them
    "[x0, y0, x1, y1]": "[x0, y0, x1 - x0, y1 - y0]",
    "[y0, x0, y1, x1]": "[x0, y0, x1 - x0, y1 - y0]",
    "[centre x, centre y, width, height]": "[centre x - width / 2, centre y - height / 2, width, "
    "height]",
}
# In seven sets of photographs no box is beyond its image. Written as corners, 56 to 74 of a hundred
# are far beyond, with their centres 13 (nuclei) to 83; of 8 images 2 of 28 (balloons) or more.
_BEYOND = 2, 0.05  # boxes, and their share, with which another form that fits all is certain
_LITTLE = 0.1  # of its larger side, by which a box of this form may be beyond by mistake
# How likely all boxes or points of a file are in the first 100 pixels of images with sides of more
# than 200 by chance, taken as the product of their shares of the areas: below the first they are
# told, below the second they are per cents for certain if there are so many, whose middles differ
# by so much both ways (a logo's do not). Of six sets of photographs no 1 to 16 images and no whole
# set were told; in per cent every whole set is refused, and of 4 images 28 (pedestrians, always in
# the middle) to 100 of a hundred drawings, the others told.
_LARGE, _UNLIKELY, _CERTAIN, _AT_LEAST, _APART = 200, 1e-2, 1e-3, 4, 25
_LOOK = "tools/check_data.py with --pictures draws them"
_DOUBTFUL = 0.25  # share with which it is certain however few they are, and told in any case


class StatedBox(NamedTuple):
    """A box as a file states it.

    Attributes:
        image, annotation: ids, for messages.
        box: four numbers, which should be x, y, width, height.
        size: (H, W) of the image.
        mask: the corners of the box of its mask, or None.
        drawn: whether that mask is an RLE, which has pixels whatever the box has.
    """

    image: Any
    annotation: Any
    box: Sequence[float]
    size: tuple[int, int]
    mask: Corners | None = None
    drawn: bool = False

    def is_alike(self, corners: Corners) -> bool:
        """Whether its mask, if it has one, has about these corners."""
        if self.mask is None or max(map(abs, map(sub, corners, self.mask))) <= ROUNDING:
            return True
        (x0, y0, x1, y1), (left, top, right, bottom) = corners, self.mask
        common = max(0, min(right, x1) - max(left, x0)) * max(0, min(bottom, y1) - max(top, y0))
        union = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - common
        return common >= _LEAST_IOU * union

    def fits(self, corners: Corners, beyond: float = _OUTSIDE) -> bool:
        """Whether these corners are in its image, or so far beyond, and about those of its mask."""
        x0, y0, x1, y1 = corners
        height, width = self.size
        within = -beyond <= x0 < x1 <= width + beyond
        return within and -beyond <= y0 < y1 <= height + beyond and self.is_alike(corners)

    def is_in_place(self) -> bool:
        """Whether it is in its image, and about that of its mask."""
        return self.fits(_corners(*self.box))

    def is_outside(self) -> bool:
        """Whether it is beyond its image, whatever its mask."""
        return not self._replace(mask=None).is_in_place()

    def fitting(self, forms: Mapping[str, Form]) -> dict[str, Form]:
        """Those of other forms in which it would be in its place."""
        return {name: form for name, form in forms.items() if self.fits(form(*self.box))}

    def is_displaced(self) -> bool:
        """Whether it is far beyond its image, or far from its mask."""
        return not self.fits(_corners(*self.box), max(_OUTSIDE, _LITTLE * max(self.box[2:])))

    def is_share(self, whole: float = 1.0) -> bool:
        """Whether its numbers can be shares of the image's sides, of which ``whole`` is all."""
        least, most = -0.01 * whole, _SHARE * whole
        return min(self.size) > 2 and min(self.box) >= least and max(self.box) <= most

    def of_per_cents(self) -> Corners:
        """Its corners if its numbers are per cents of the image's sides."""
        height, width = self.size
        x, y, w, h = self.box
        return _corners(x * width / 100, y * height / 100, w * width / 100, h * height / 100)


def _corners(x: float, y: float, width: float, height: float) -> Corners:
    return x, y, x + width, y + height


def tell_contradictions(
    records: Sequence[Record], source: str | os.PathLike[str], problems: Problems
) -> list[Record]:
    """The images whose file no earlier one has; what else contradicts itself becomes a problem.

    An image that is there twice is an error: nobody but its owner knows whether its two lists of
    annotations complete or repeat each other. Crowds and nothing else, and boxes that are far from
    their masks or beyond their images are told.

    Args:
        records: dataset dicts with boxes XYWH_ABS.
        source: the file, for messages.
        problems: collects them.

    Raises:
        DataError: its boxes or points are certainly written in another form.
    """
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(record["file_name"], record)
        if other is not record:
            message = (
                f"file_name {record['file_name']} is that of image {other['image_id']}, too; put "
                "the annotations of both under one id"
            )
            place = {"image": record["image_id"], "field": "file_name"}
            problems.error(message, file=source, left_out=1 + len(record["annotations"]), **place)
    kept = list(first.values())
    annotations = [a for record in kept for a in record["annotations"]]
    if annotations and all(a["iscrowd"] for a in annotations):
        problems.error(
            f"every annotation ({len(annotations)}) has iscrowd 1 (or ignore 1), so that no object "
            "is left to learn from; set iscrowd to 0 where an annotation is a single object",
            file=source,
            field="iscrowd",
            left_out=0,
        )
    _require_pixels("point", "[x, y]", _stated_points(kept), source)
    _tell_strange_boxes(kept, source, problems)
    _tell_per_cents("point", "[x, y]", _stated_points(kept), source, problems)
    _tell_per_cents("bbox", _XYWH, _stated_boxes(kept), source, problems)
    return kept


class Contradictions:
    """The same for annotations that come one after another, as far as each tells it alone."""

    def __init__(self) -> None:
        self._annotations = self._boxes = self._points = 0
        self._crowds, self._large = True, False
        self._box_shares, self._point_shares = [1.0, 100.0], [1.0, 100.0]  # of which they may be
        self._forms, self._strange = dict(_FORMS), list[StatedBox]()

    def see(self, image: Record, one: Record) -> None:
        """Look at an annotation of an image."""
        self._annotations += 1
        self._crowds &= bool(one["iscrowd"])
        alone = image | {"annotations": (one,)}
        for point in _stated_points((alone,)):
            self._points += 1
            self._large |= min(point.size) > _LARGE
            self._point_shares = [whole for whole in self._point_shares if point.is_share(whole)]
        for box in _stated_boxes((alone,)):
            self._see_box(box)
            if not box.is_in_place():
                self._strange.append(box)

    def _see_box(self, box: StatedBox) -> None:
        self._boxes += 1
        self._large |= min(box.size) > _LARGE
        self._box_shares = [whole for whole in self._box_shares if box.is_share(whole)]
        self._forms = box.fitting(self._forms)

    def see_usual(self, boxes: np.ndarray, sizes: np.ndarray) -> None:
        """Take note of objects whose boxes, (n, 4) XYWH, are in their images and of their masks.

        ``sizes`` (n, 2) are width and height of the images.
        """
        self._annotations += len(boxes)
        self._crowds &= not len(boxes)
        place = 0
        while place < len(boxes) and (self._forms or self._box_shares):
            width, height = sizes[place].tolist()
            box = boxes[place].tolist()
            self._see_box(StatedBox(None, None, box, (int(height), int(width))))
            place += 1
        self._boxes += len(boxes) - place

    def _may_be_shares(self, wholes: Sequence[float]) -> bool:
        return 1.0 in wholes or (self._large and bool(wholes))

    def tell(self, images: Sequence[Record], source: Any, problems: Problems) -> bool:
        """Tell which boxes are far from their masks.

        Returns:
            False, and nothing is told, if it takes all annotations together to tell what is wrong.
        """
        outside = [box for box in self._strange if box.is_outside()]
        if (
            (self._annotations and self._crowds)
            or (self._boxes and self._may_be_shares(self._box_shares))
            or (self._points and self._may_be_shares(self._point_shares))
            or (self._strange and self._forms)
            or (outside and len(outside) >= _DOUBTFUL * self._boxes)
        ):
            return False
        ranks = {image["image_id"]: rank for rank, image in enumerate(images)}
        _tell_far(sorted(self._strange, key=lambda box: ranks[box.image]), source, problems)
        return True


def _tell_strange_boxes(records: Sequence[Record], source: Any, problems: Problems) -> None:
    strange, total, fit = strange_boxes(_stated_boxes(records), source)
    outside = [one for one in strange if one.is_outside()]
    if outside and len(outside) >= _DOUBTFUL * total:
        also = f", and none would be as {fit}" if fit else ""
        problems.warning(
            f"boxes beyond their image: {len(outside)} of {total}{also}; bbox is {_XYWH}: "
            f"correct the file if it holds something else ({_LOOK})",
            file=source,
            image=outside[0].image,
            annotation=outside[0].annotation,
            field="bbox",
        )
    _tell_far(strange, source, problems)


def _tell_far(strange: Iterable[StatedBox], source: Any, problems: Problems) -> None:
    for one in strange:
        if not one.is_alike(corners := _corners(*one.box)):
            told = (
                "{:g}, {:g} to {:g}, {:g}".format(*found) for found in (corners, one.mask or ())
            )
            problems.warning(
                "bbox {} is far from the box of its mask, {}".format(*told),
                file=source,
                image=one.image,
                annotation=one.annotation,
                field="bbox",
            )


def strange_boxes(
    stated: Iterable[StatedBox], source: str | os.PathLike[str]
) -> tuple[list[StatedBox], int, str]:
    """The boxes of a file that are not in their image or far from their mask.

    Returns:
        these, the number of all boxes, and the other forms in which all would be in their places.

    Raises:
        DataError: they are certainly no x, y, width, height in pixels.
    """
    forms, strange, total, shares = dict(_FORMS), list[StatedBox](), 0, list[StatedBox]()
    for one in stated:
        if len(shares) == total and one.is_share():
            shares.append(one)
        total += 1
        if not one.is_in_place():
            strange.append(one)
        forms = one.fitting(forms)
    if len(shares) == total:
        _require_pixels("bbox", _XYWH, shares, source)
    fit = " or ".join(forms)
    displaced = [one for one in strange if one.is_displaced()] if forms else []
    least, share = _BEYOND
    few = len(displaced) < max(least, share * total) and len(displaced) < _DOUBTFUL * total
    if displaced and not few:
        formula = " or ".join(sorted({_AS_XYWH[form] for form in forms}))
        slip = ", or end it at the image's edge if it was drawn too far"
        raise DataError(
            f"{_place(displaced[0], source)}: bbox {_listed(displaced[0].box)} is not in its place "
            f"as {_XYWH}, like {len(displaced)} of {total} boxes, while every box of the file fits "
            f"its image as {fit}; write {_XYWH} in pixels, that is {formula}"
            f"{slip if len(displaced) == 1 else ''}"
        )
    return strange, total, fit


def _place(one: StatedBox, source: str | os.PathLike[str]) -> str:
    return f"{os.fspath(source)}: image {one.image}, annotation {one.annotation}"


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _require_pixels(
    key: str, form: str, stated: Iterable[StatedBox], source: str | os.PathLike[str]
) -> None:
    """Refuse a file whose every box or point is in the first pixel, but not on its corners."""
    shares = []
    for one in stated:
        if not one.is_share():
            return
        shares.append(one)
    if any(value % 1 for one in shares for value in one.box):
        raise DataError(
            f"{_place(shares[0], source)}: {key} {_listed(shares[0].box)} lies within the first "
            f"pixel, as shares of the image's sides do, and so does every {key} of the file "
            f"({len(shares)}); write {form} in pixels"
        )


def _tell_per_cents(
    key: str,
    form: str,
    stated: Iterable[StatedBox],
    source: str | os.PathLike[str],
    problems: Problems,
) -> None:
    """Refuse a file whose boxes or points are per cents for certain; tell if they may be."""
    found = []
    for one in stated:
        if not one.is_share(100):
            return
        found.append(one)
    sizes = {one.image: one.size for one in found}.values()
    large = [1e4 / (h * w) for h, w in sizes if min(h, w) > _LARGE]
    chance = math.prod(large)
    if chance > _UNLIKELY or not any(value % 1 for one in found for value in one.box):
        return
    masked = [one for one in found if one.mask is not None]
    apart = [one for one in masked if one.drawn or not one.is_alike(_corners(*one.box))]
    if not all(one.is_alike(one.of_per_cents()) for one in apart):
        return
    boxes = np.array([one.box for one in found])
    middles = boxes[:, :2] + boxes[:, 2:] / 2 if key == "bbox" else boxes
    many = len(found) >= _AT_LEAST and len(large) > 1 and np.ptp(middles, axis=0).min() >= _APART
    said = (
        f"every {key} of the file ({len(found)}) lies within the first 100 pixels of its image, as "
        f"per cents of the image's sides do: write {form} in pixels"
    )
    if len(apart) >= _AT_LEAST or (many and chance < _CERTAIN):
        raise DataError(f"{_place(found[0], source)}: {key} {_listed(found[0].box)}: {said}")
    place = {"image": found[0].image, "annotation": found[0].annotation}
    problems.warning(f"{said} if they are ({_LOOK})", file=source, field=key, **place)


def _stated_points(records: Sequence[Record]) -> Iterator[StatedBox]:
    for record in records:
        size = record["height"], record["width"]
        for one in record["annotations"]:
            if "point" in one:
                yield StatedBox(record["image_id"], one["id"], one["point"], size)


def _stated_boxes(records: Sequence[Record]) -> Iterator[StatedBox]:
    for record in records:
        size = record["height"], record["width"]
        for one in record["annotations"]:
            if "bbox" in one:
                known = not one["iscrowd"] and "segmentation" in one
                mask = _extent(one["segmentation"]) if known else None
                drawn = known and isinstance(one["segmentation"], dict)
                box = one.get("unclipped_bbox", one["bbox"])
                yield StatedBox(record["image_id"], one["id"], box, size, mask, drawn)


def _extent(mask: Any) -> Corners:
    if isinstance(mask, dict):
        return _corners(*rle_box(mask))
    sides = [[polygon[place::2] for polygon in mask] for place in (0, 1)]
    (left, right), (top, bottom) = ((min(map(min, s)), max(map(max, s))) for s in sides)
    return left, top, right, bottom
