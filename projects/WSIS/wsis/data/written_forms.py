"""Tells whether the boxes or points of a file are x, y in pixels or written in another form.

`Written` gathers what tells it, one after another, and keeps none that is as it should be. Each
rule is a function over that: `shares`, `other_form` and `per_cents`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from operator import sub
from typing import Any, NamedTuple

from wsis.data.problems import Problem
from wsis.errors import DataError

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1
ROUNDING = 2.0  # pixels by which a box and that of its mask may differ in any case
_LEAST_IOU = 0.5  # of these two
_OUTSIDE = 1.0  # pixel by which a box may reach beyond its image
_LOOK = "tools/check_data.py with --pictures draws them"
_XYWH = "[x, y, width, height]"
_RIGHT = {"bbox": _XYWH, "point": "[x, y]"}
# Other ways to write a box: the corners of what is written, and how to write it instead.
_Form = tuple[Callable[[float, float, float, float], Corners], str]
_FORMS: dict[str, _Form] = {
    "[x0, y0, x1, y1]": (lambda a, b, c, d: (a, b, c, d), "[x0, y0, x1 - x0, y1 - y0]"),
    "[y0, x0, y1, x1]": (lambda a, b, c, d: (b, a, d, c), "[x0, y0, x1 - x0, y1 - y0]"),
    "[centre x, centre y, width, height]": (
        lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
        "[centre x - width / 2, centre y - height / 2, width, height]",
    ),
}
# In seven sets of photographs no box is beyond its image. Written as corners, 56 to 74 of a hundred
# are far beyond, with their centres 13 (nuclei) to 83; of 8 images 2 of 28 (balloons) or more.
_BEYOND = 2, 0.05  # boxes, and their share, with which another form that fits all is certain
_LITTLE = 0.1  # of its larger side, by which a box of this form may be beyond by mistake
_DOUBTFUL = 0.25  # share with which it is certain however few they are, and told in any case
# How likely all boxes or points of a file are in the first 100 pixels of images with sides of more
# than 200 by chance, taken as the product of their shares of the areas: below the first they are
# told, below the second they are per cents for certain if there are so many, whose middles differ
# by so much both ways (a logo's do not). Of six sets of photographs no 1 to 16 images and no whole
# set were told; in per cent every whole set is refused, and of 4 images 28 (pedestrians, always in
# the middle) to 100 of a hundred drawings, the others told.
_LARGE, _UNLIKELY, _CERTAIN, _AT_LEAST, _APART = 200, 1e-2, 1e-3, 4, 25


class Stated(NamedTuple):
    """A box or a point as a file states it.

    Attributes:
        image, annotation: ids, for messages.
        numbers: of a box, which should be x, y, width, height, or of a point, x, y.
        size: (H, W) of the image.
        mask: the corners of the box of its mask, or None.
        drawn: whether that mask is an RLE, which has pixels whatever the box has.
    """

    image: Any
    annotation: Any
    numbers: Sequence[float]
    size: tuple[int, int]
    mask: Corners | None = None
    drawn: bool = False

    @property
    def corners(self) -> Corners:
        """Of a box that is what it should be."""
        x, y, width, height = self.numbers
        return x, y, x + width, y + height

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
        (x0, y0, x1, y1), (height, width) = corners, self.size
        within = -beyond <= x0 < x1 <= width + beyond
        return within and -beyond <= y0 < y1 <= height + beyond and self.is_alike(corners)

    def is_share(self, whole: int) -> bool:
        """Whether its numbers can be shares of the image's sides, of which ``whole`` is all."""
        within = min(self.numbers) >= -0.01 * whole and max(self.numbers) <= 1.01 * whole
        return within and min(self.size) > 2

    def problem(self, level: str, key: str, text: str) -> Problem:
        """Of it as one of many; ``text`` follows the numbers in an error."""
        if level == "error":
            text = f"{key} [{', '.join(f'{number:g}' for number in self.numbers)}]{text}"
        return Problem(level, text, image=self.image, annotation=self.annotation, field=key)


class Written:
    """What the boxes ("bbox") or points ("point") of a file tell of the form of all of them.

    Attributes:
        total: their number.
        strange: boxes that are not in their image, or not about that of their mask.
    """

    def __init__(self, key: str) -> None:
        self.key, self.total, self.strange = key, 0, list[Stated]()
        self.first: Stated | None = None
        self.forms = dict(_FORMS) if key == "bbox" else {}  # in which all are in their places
        self.wholes = {1, 100}  # of which all may be shares; while there are any:
        self.has_fractions, self.chances = False, dict[Any, float]()  # these of large images
        self.middles = math.inf, math.inf, -math.inf, -math.inf  # the corners of them all
        self.masked = 0  # with a mask that tells per cents from pixels

    def see(self, one: Stated) -> None:
        """Take in one."""
        self.total += 1
        self.first = self.first or one
        if self.key == "bbox":
            if not one.fits(one.corners):
                self.strange.append(one)
            self.forms = {n: f for n, f in self.forms.items() if one.fits(f[0](*one.numbers))}
        self.wholes = {whole for whole in self.wholes if one.is_share(whole)}
        if self.wholes:
            self._see_share(one)

    def _see_share(self, one: Stated) -> None:
        (height, width), (x, y, w, h) = one.size, (*one.numbers, 0, 0)[:4]
        self.has_fractions |= any(number % 1 for number in one.numbers)
        if min(one.size) > _LARGE:
            self.chances[one.image] = 1e4 / (height * width)
        (left, top, right, bottom), u, v = self.middles, x + w / 2, y + h / 2
        self.middles = min(left, u), min(top, v), max(right, u), max(bottom, v)
        if one.mask and (one.drawn or not one.is_alike(one.corners)):
            self.masked += 1
            pixels = x * width / 100, y * height / 100, w * width / 100, h * height / 100
            if not one.is_alike(one._replace(numbers=pixels).corners):
                self.wholes.discard(100)


def shares(seen: Written) -> Problem | None:
    """All are in the first pixel, but not on its corners."""
    if not (seen.first and seen.has_fractions and 1 in seen.wholes):
        return None
    text = (
        " lies within the first pixel, as shares of the image's sides do, and so does every "
        f"{seen.key} of the file ({seen.total}); write {_RIGHT[seen.key]} in pixels"
    )
    return seen.first.problem("error", seen.key, text)


def other_form(seen: Written) -> Problem | None:
    """Many boxes are not in their places; an error if all would be in another form."""
    total, fit = seen.total, " or ".join(seen.forms)
    least, share = _BEYOND
    slips = [max(_OUTSIDE, _LITTLE * max(one.numbers[2:])) for one in seen.strange]
    pairs = zip(seen.strange, slips, strict=True)
    displaced = [one for one, slip in pairs if not one.fits(one.corners, slip)]
    certain = len(displaced) >= min(max(least, share * total), _DOUBTFUL * total)
    if fit and displaced and certain:
        edge = ", or end it at the image's edge if it was drawn too far"
        text = (
            f" is not in its place as {_XYWH}, like {len(displaced)} of {total} boxes, while every "
            f"box of the file fits its image as {fit}; write {_XYWH} in pixels, that is "
            f"{' or '.join(sorted({right for _, right in seen.forms.values()}))}"
            f"{edge if len(displaced) == 1 else ''}"
        )
        return displaced[0].problem("error", "bbox", text)
    outside = [one for one in seen.strange if not one._replace(mask=None).fits(one.corners)]
    if not outside or len(outside) < _DOUBTFUL * total:
        return None
    also = f", and none would be as {fit}" if fit else ""
    text = (
        f"boxes beyond their image: {len(outside)} of {total}{also}; bbox is {_XYWH}: "
        f"correct the file if it holds something else ({_LOOK})"
    )
    return outside[0].problem("warning", "bbox", text)


def per_cents(seen: Written) -> Problem | None:
    """All are where only per cents are likely; an error if they are many, or masks say so."""
    chance = math.prod(seen.chances.values())
    if not (seen.first and seen.has_fractions and 100 in seen.wholes) or chance > _UNLIKELY:
        return None
    left, top, right, bottom = seen.middles
    many = seen.total >= _AT_LEAST and min(right - left, bottom - top) >= _APART
    certain = many and len(seen.chances) > 1 and chance < _CERTAIN
    text = (
        f"every {seen.key} of the file ({seen.total}) lies within the first 100 pixels of its "
        f"image, as per cents of the image's sides do: write {_RIGHT[seen.key]} in pixels"
    )
    if certain or seen.masked >= _AT_LEAST:
        return seen.first.problem("error", seen.key, f": {text}")
    return seen.first.problem("warning", seen.key, f"{text} if they are ({_LOOK})")


def require_xywh(boxes: Iterable[Stated], source: str | os.PathLike[str]) -> None:
    """Refuse the boxes of a file (``source``) that are certainly no x, y, width, height in pixels.

    Raises:
        DataError: naming one of them, and how all are written.
    """
    seen = Written("bbox")
    for one in boxes:
        seen.see(one)
    for found in (shares(seen), other_form(seen)):
        if found and found.level == "error":
            raise DataError(f"{source}: {found}")
