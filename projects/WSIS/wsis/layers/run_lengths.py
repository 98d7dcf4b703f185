"""Run-length encoded masks as in COCO, checked before anything is allocated or decoded.

A mask is read column by column; the run lengths alternate between 0 and 1 and start with 0. The
compressed form is text: five bits a character, differences to the run before last (pycocotools).
pycocotools trusts what it is given, so files from outside pass `check_rle` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]
MAX_STACK_BYTES = 4 << 30  # of the masks of one image
_MAX_OUTLINE = 1 << 22  # pixels; pycocotools lists five points for each
_MAX_CHARACTERS = 7  # of one run: 34 bits with the sign, more than any image has pixels


def run_lengths(counts: str | bytes) -> np.ndarray:
    """The run lengths in a compressed RLE, (runs,) int64.

    Raises:
        ValueError: not the text of an RLE.
    """
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError:
        raise ValueError("counts hold a character that is not ASCII") from None
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, dtype=np.int64)
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("counts hold a character that no RLE has")
    last = (codes & 0x20) == 0
    if not last[-1]:
        raise ValueError("counts end inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MAX_CHARACTERS:
        raise ValueError("counts hold an absurdly large number")
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    negative = (codes[ends] & 0x10) != 0
    values[negative] -= 1 << (5 * (ends - starts + 1)[negative])
    lengths = values.copy()
    lengths[1::2] = np.cumsum(values[1::2])
    lengths[2::2] = np.cumsum(values[2::2])
    return lengths


def _checked_lengths(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """(runs,) int64 run lengths of ``counts`` from a file, checked to fill an image of ``size``."""
    total = size[0] * size[1]
    if isinstance(counts, (str, bytes)):
        if len(counts) > (_MAX_CHARACTERS + 1) * (total + 1):
            raise ValueError("counts are longer than any mask of the image can be")
        lengths = run_lengths(counts)
    elif not isinstance(counts, list) or not all(type(c) is int for c in counts):
        raise ValueError("has counts that are neither text nor a list of integers")
    else:
        lengths = np.array([c if 0 <= c <= total else -1 for c in counts], dtype=np.int64)
    # Each run is checked by itself, too: a sum of absurd runs could overflow to the right number.
    if lengths.size and (lengths.min() < 0 or lengths.max() > total):
        raise ValueError("counts hold a negative run or one longer than the image")
    covered = int(lengths.sum())
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
    lengths = _checked_lengths(counts, size)
    stop = np.cumsum(lengths)[1::2]
    return stop - lengths[1::2], stop


def check_rle(rle: Any, size: tuple[int, int]) -> RLE:
    """Validate a COCO RLE from outside, which must have ``size`` (H, W).

    ``rle`` is ``{"size": [H, W], "counts": text, bytes or list of integers}``; the result is the
    same with text.

    Raises:
        ValueError: the RLE is wrong; the message lacks its subject ("has size ...").
    """
    if not isinstance(rle, dict) or "size" not in rle or "counts" not in rle:
        raise ValueError("is not an RLE with size and counts")
    stated, counts = rle["size"], rle["counts"]
    if not isinstance(stated, (list, tuple)) or list(stated) != list(size):
        raise ValueError(f"has size {str(stated)[:40]}, its image is {list(size)} (height, width)")
    _checked_lengths(counts, size)
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return _as_text({"size": size, "counts": counts})


def _as_text(rle: RLE) -> RLE:
    """``size`` as a list of whole numbers, ``counts`` as text, as JSON wants them."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def encode_mask(mask: np.ndarray) -> RLE:
    """Compressed RLE of a (H, W) boolean mask, with text counts."""
    return _as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


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


def rle_iou(a: Sequence[RLE], b: Sequence[RLE]) -> np.ndarray:
    """IoU of all pairs of checked RLEs of one image, (A, B) float64; 0 for two empty ones."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    return coco_mask.iou(a, b, [0] * len(b))


def rle_intersection(a: Sequence[RLE], b: Sequence[RLE]) -> np.ndarray:
    """Number of common pixels of all pairs of checked RLEs of one image: (A, B) float64, exact.

    The intersection follows from the IoU of pycocotools and the areas. Rounding to whole numbers
    makes it exact: the error of the IoU is far less than half a pixel.
    """
    areas = [np.array([rle_area(rle) for rle in rles], dtype=np.float64) for rles in (a, b)]
    iou = rle_iou(a, b)
    return np.rint(iou * (areas[0][:, None] + areas[1][None, :]) / (1 + iou))


def rle_box(rle: RLE) -> list[float]:
    """[x, y, width, height] of a checked RLE, in pixels."""
    return [float(v) for v in coco_mask.toBbox(rle)]


def check_outlines(polygons: Sequence[Sequence[float]]) -> None:
    """Refuse (ValueError) an object whose outline is absurdly long.

    Rasterising takes time and memory in proportion to it, whatever the size of the image.
    """
    if sum(len(p) * max(max(p), -min(p)) for p in polygons if len(p)) <= _MAX_OUTLINE:
        return  # an upper bound, as cheap as it is generous
    closed = [np.reshape([*p, *p[:2]], (-1, 2)) for p in polygons]
    length = sum(float(np.abs(np.diff(p, axis=0)).max(axis=1).sum()) for p in closed)
    if not length <= _MAX_OUTLINE:
        raise ValueError(f"has an outline of {length:g} pixels; {_MAX_OUTLINE} are the limit")


def polygons_to_rle(polygons: list[list[float]], size: tuple[int, int]) -> RLE:
    """The union of polygons ([x0, y0, x1, y1, ...] each), rasterised as pycocotools does.

    Raises:
        ValueError: as `check_outlines`.
    """
    check_outlines(polygons)
    return _as_text(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
