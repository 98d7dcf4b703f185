"""Run-length encoded masks as in COCO, checked before anything is allocated or decoded.

A mask is read column by column; the run lengths alternate between 0 and 1 and start with 0. The
compressed form is text: five bits a character, differences to the run before last (pycocotools).
pycocotools trusts what it is given, so files from outside pass `check_rle` first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]
MAX_STACK_BYTES = 4 << 30  # of the masks of one image
MAX_OUTLINE = 1 << 22  # pixels; pycocotools lists five points for each
_MAX_TOGETHER = 1 << 20  # characters of RLEs that are checked at once
_WRONG_RUN = "counts hold a negative run or one longer than the image"
_MAX_CHARACTERS = 7  # of one run: 34 bits with the sign, more than any image has pixels


def run_lengths(counts: str | bytes) -> np.ndarray:
    """The run lengths in a compressed RLE, (runs,) int64.

    Raises:
        ValueError: not the text of an RLE.
    """
    return _lengths_of([counts])[0]


def _lengths_of(texts: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The run lengths of N compressed RLEs in one row, int64, and where those of each end, (N,)."""
    try:
        raw = [t.encode("ascii") if isinstance(t, str) else bytes(t) for t in texts]
    except UnicodeEncodeError:
        raise ValueError("counts hold a character that is not ASCII") from None
    codes = np.frombuffer(b"".join(raw), dtype=np.uint8).astype(np.int64) - 48
    stops = np.cumsum([len(text) for text in raw], dtype=np.int64)  # of the texts
    if codes.size == 0:
        return np.zeros(0, dtype=np.int64), stops
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("counts hold a character that no RLE has")
    last = (codes & 0x20) == 0
    if not last[stops[stops > 0] - 1].all():
        raise ValueError("counts end inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MAX_CHARACTERS:
        raise ValueError("counts hold an absurdly large number")
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    negative = (codes[ends] & 0x10) != 0
    values[negative] -= 1 << (5 * (ends - starts + 1)[negative])
    stops = np.searchsorted(ends, stops)  # of the numbers of each text
    first = np.concatenate([[0], stops[:-1]])
    text = np.repeat(np.arange(len(raw)), stops - first)
    order = np.arange(len(values)) - first[text]
    for chain in (order % 2 == 1, (order % 2 == 0) & (order > 0)):
        rows = np.flatnonzero(chain)
        sums = np.cumsum(np.concatenate([[0], values[rows]]))
        values[rows] = sums[1:] - sums[np.searchsorted(rows, first)][text[rows]]
    return values, stops


def _text_of(counts: Any, size: tuple[int, int]) -> str | bytes:
    """``counts`` from a file as a compressed text that is no longer than an image can need."""
    total = size[0] * size[1]
    if isinstance(counts, (str, bytes)):
        if len(counts) > (_MAX_CHARACTERS + 1) * (total + 1):
            raise ValueError("counts are longer than any mask of the image can be")
        return counts
    if not isinstance(counts, list) or not all(type(c) is int for c in counts):
        raise ValueError("has counts that are neither text nor a list of integers")
    if not all(0 <= c <= total for c in counts):
        raise ValueError(_WRONG_RUN)
    return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]


def _checked_lengths(texts: Sequence[str | bytes], size: tuple[int, int]) -> np.ndarray:
    """(runs,) int64 run lengths of N texts, of which each is checked to fill an image of size."""
    total, (lengths, stops) = size[0] * size[1], _lengths_of(texts)
    # Each run is checked by itself, too: a sum of absurd runs could overflow to the right number.
    if lengths.size and (lengths.min() < 0 or lengths.max() > total):
        raise ValueError(_WRONG_RUN)
    sums = np.cumsum(np.concatenate([[0], lengths]))
    for covered in np.diff(sums[stops], prepend=0).tolist():
        if covered != total:
            raise ValueError(f"counts cover {covered} pixels, not {size[0]} x {size[1]}")
    return lengths


def runs_of_ones(counts: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the runs of ones start and end (exclusive): two (runs,) int64; a run may be empty.

    ``counts`` come from the RLE of a file: text, bytes or a list of integers. They must fill an
    image of ``size`` (H, W), column by column. No mask is decoded.

    Raises:
        ValueError: as `check_rle`.
    """
    lengths = _checked_lengths([_text_of(counts, size)], size)
    stop = np.cumsum(lengths)[1::2]
    return stop - lengths[1::2], stop


def check_rle(rle: Any, size: tuple[int, int]) -> RLE:
    """Validate a COCO RLE from outside, which must have ``size`` (H, W).

    ``rle`` is ``{"size": [H, W], "counts": text, bytes or list of integers}``; the result is the
    same with text.

    Raises:
        ValueError: the RLE is wrong; the message lacks its subject ("has size ...").
    """
    return check_rles([rle], size)[0]


def check_rles(rles: Sequence[Any], size: tuple[int, int]) -> list[RLE]:
    """`check_rle` of all masks of an image at once, which takes a tenth of the time for each."""
    texts = []
    for rle in rles:
        if not isinstance(rle, dict) or "size" not in rle or "counts" not in rle:
            raise ValueError("is not an RLE with size and counts")
        stated = rle["size"]
        if not isinstance(stated, (list, tuple)) or list(stated) != list(size):
            given = str(stated)[:40]
            raise ValueError(f"has size {given}, its image is {list(size)} (height, width)")
        texts.append(_text_of(rle["counts"], size))
    start, held = 0, 0
    for stop, text in enumerate(texts, start=1):  # numbers take many times the memory of texts
        held += len(text)
        if held >= _MAX_TOGETHER or stop == len(texts):
            _checked_lengths(texts[start:stop], size)
            start, held = stop, 0
    return [_as_text({"size": size, "counts": text}) for text in texts]


def _as_text(rle: RLE) -> RLE:
    """``size`` as a list of whole numbers, ``counts`` as text, as JSON wants them."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def encode_mask(mask: np.ndarray) -> RLE:
    """Compressed RLE of a (H, W) boolean mask, with text counts."""
    return encode_masks(mask[None])[0]


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """Compressed RLEs of masks (N, H, W) bool, with text counts.

    Only columns that have pixels are turned and searched: a mask of 120 x 160 pixels in an image of
    480 x 640 takes a third of the time of ``pycocotools.mask.encode``.
    """
    height, width = masks.shape[1:]
    found = []
    for mask in masks:
        columns = np.flatnonzero(mask.any(axis=0))
        start, stop = (columns[0], columns[-1] + 1) if columns.size else (0, 0)
        line = np.zeros((stop - start) * height + 2, dtype=bool)  # the columns between two zeros
        line[1:-1].reshape(stop - start, height)[:] = mask[:, start:stop].T
        edges = np.flatnonzero(line[1:] != line[:-1]) + start * height
        edges = edges[edges < height * width]
        lengths = np.diff(edges, prepend=0, append=height * width)
        found.append({"size": [height, width], "counts": lengths})
    return [_as_text(rle) for rle in coco_mask.frPyObjects(found, height, width)] if found else []


def decode_rle(rle: RLE) -> np.ndarray:
    """(H, W) bool of a checked RLE."""
    return coco_mask.decode(rle).view(bool)


def decode_rles(rles: Sequence[RLE], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool of N checked RLEs of an image of ``size``; ValueError as `empty_masks`."""
    masks = empty_masks(len(rles), size)
    for mask, rle in zip(masks, rles, strict=True):
        mask[:] = decode_rle(rle)
    return masks


def empty_masks(count: int, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool without any pixel; ValueError if that takes more than `MAX_STACK_BYTES`."""
    if count * size[0] * size[1] > MAX_STACK_BYTES:
        raise ValueError(f"{count} masks of {size[1]} x {size[0]} pixels take too much memory")
    return np.zeros((count, *size), dtype=bool)


def rle_area(rle: RLE) -> int:
    """Number of pixels of a checked RLE."""
    return int(coco_mask.area(rle))


def rle_areas(rles: Sequence[RLE]) -> np.ndarray:
    """Number of pixels of each of N checked RLEs, (N,) int64."""
    # One by one: pycocotools 2.0.11 takes no more than 255 at once here.
    return np.array([coco_mask.area(rle) for rle in rles], dtype=np.int64)


def rle_iou(
    a: Sequence[Any] | np.ndarray, b: Sequence[Any] | np.ndarray, crowd: np.ndarray | None = None
) -> np.ndarray:
    """IoU of all pairs of checked RLEs of one image, (A, B) float64; 0 for two empty ones.

    Boxes (N, 4) as x, y, width, height do, too. Where ``crowd`` (B,) is 1, it is the share of the
    first that lies in the second.
    """
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    return coco_mask.iou(a, b, [0] * len(b) if crowd is None else crowd)


def rle_intersection(a: Sequence[RLE], b: Sequence[RLE]) -> np.ndarray:
    """Number of common pixels of all pairs of checked RLEs of one image: (A, B) float64, exact."""
    return shared_pixels(rle_iou(a, b), rle_areas(a)[:, None], rle_areas(b)[None, :])


def shared_pixels(iou: np.ndarray, areas: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Number of common pixels, float64, of masks whose IoU and areas are given; all broadcast.

    Rounding to whole numbers makes it exact: the error of the IoU is far less than half a pixel.
    """
    return np.rint(iou * (areas + others) / (1 + iou))


def common_pixels(a: RLE, b: RLE) -> RLE:
    """The pixels that lie in both of two checked RLEs of one image."""
    return _as_text(coco_mask.merge([a, b], intersect=True))


def rle_box(rle: RLE) -> list[float]:
    """[x, y, width, height] of a checked RLE, in pixels."""
    return rle_boxes([rle])[0].tolist()


def rle_boxes(rles: Sequence[RLE]) -> np.ndarray:
    """Tightest boxes of N checked RLEs, (N, 4) float64: x, y, width, height in whole pixels."""
    return coco_mask.toBbox(list(rles)) if len(rles) else np.zeros((0, 4))


def check_outlines(polygons: Sequence[Sequence[float]], reach: float = math.inf) -> None:
    """Refuse (ValueError) an object whose outline is absurdly long.

    Rasterising takes time and memory in proportion to it, whatever the size of the image. No
    coordinate is beyond ``reach``.
    """
    if sum(map(len, polygons)) * reach <= MAX_OUTLINE:
        return
    if sum(len(p) * max(max(p), -min(p)) for p in polygons if len(p)) <= MAX_OUTLINE:
        return  # an upper bound, as cheap as it is generous
    closed = [np.reshape([*p, *p[:2]], (-1, 2)) for p in polygons]
    length = sum(float(np.abs(np.diff(p, axis=0)).max(axis=1).sum()) for p in closed)
    if not length <= MAX_OUTLINE:
        raise ValueError(f"has an outline of {length:g} pixels; {MAX_OUTLINE} are the limit")


def polygons_to_rle(polygons: list[list[float]], size: tuple[int, int]) -> RLE:
    """The union of polygons ([x0, y0, x1, y1, ...] each), rasterised as pycocotools does.

    Raises:
        ValueError: as `check_outlines`.
    """
    check_outlines(polygons)
    return _as_text(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
