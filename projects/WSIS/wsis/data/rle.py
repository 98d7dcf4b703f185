"""Run-length encoded masks as in COCO, checked before anything is allocated or decoded.

A mask is read column by column; the run lengths alternate between 0 and 1 and start with 0. The
compressed form is text: five bits a character, differences to the run before last (pycocotools).
pycocotools trusts what it is given, so files from outside pass `check_rle` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]
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


def _check_lengths(lengths: np.ndarray, size: tuple[int, int]) -> None:
    if lengths.size and lengths.min() < 0:
        raise ValueError("counts hold a negative run")
    total = int(lengths.sum())
    if total != size[0] * size[1]:
        raise ValueError(f"counts cover {total} pixels, not {size[0]} x {size[1]}")


def check_rle(rle: Any, size: tuple[int, int]) -> RLE:
    """Validate a COCO RLE from outside.

    Args:
        rle: ``{"size": [H, W], "counts": text, bytes or list of integers}``.
        size: (H, W) that it must have.

    Returns:
        ``{"size": [H, W], "counts": text}``.

    Raises:
        ValueError: whatever is wrong, in a clause without a subject.
    """
    if not isinstance(rle, dict) or "size" not in rle or "counts" not in rle:
        raise ValueError("is not an RLE with size and counts")
    stated, counts = rle["size"], rle["counts"]
    if not isinstance(stated, (list, tuple)) or list(stated) != list(size):
        raise ValueError(f"has size {stated!r}, its image is {list(size)} (height, width)")
    height, width = size
    if isinstance(counts, (str, bytes)):
        _check_lengths(run_lengths(counts), size)
        text = counts if isinstance(counts, str) else counts.decode("ascii")
        return {"size": [height, width], "counts": text}
    if not isinstance(counts, list) or not all(type(c) is int for c in counts):
        raise ValueError("has counts that are neither text nor a list of integers")
    if any(not 0 <= c <= height * width for c in counts):
        raise ValueError("counts hold a negative or too long run")
    _check_lengths(np.array(counts, dtype=np.int64), size)
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def encode_mask(mask: np.ndarray) -> RLE:
    """Compressed RLE of a (H, W) boolean mask, with text counts."""
    packed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "size": [int(mask.shape[0]), int(mask.shape[1])],
        "counts": packed["counts"].decode("ascii"),
    }


def decode_rle(rle: RLE) -> np.ndarray:
    """(H, W) bool of a checked RLE."""
    return coco_mask.decode(rle).astype(bool)


def rle_area(rle: RLE) -> int:
    """Number of pixels of a checked RLE."""
    return int(coco_mask.area(rle))


def rle_box(rle: RLE) -> list[float]:
    """[x, y, width, height] of a checked RLE, in pixels."""
    return [float(v) for v in coco_mask.toBbox(rle)]


def polygons_to_rle(polygons: list[list[float]], size: tuple[int, int]) -> RLE:
    """The union of polygons ([x0, y0, x1, y1, ...] each), rasterised as pycocotools does."""
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, size[0], size[1]))
    return {"size": [size[0], size[1]], "counts": merged["counts"].decode("ascii")}
