"""Label maps that are colour pictures, and CVAT's ``labelmap.txt`` that explains them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from wsis.data.checks import naming, read_lines, short
from wsis.errors import DataError

LABEL_MAP_FILE = "labelmap.txt"
# What annotation tools call that which is no class: nothing, or nothing certain.
IGNORED = ("__ignore__", "_ignore_", "__void__", "void", "ignored")
BACKGROUND = ("_background_", "__background__", "background")
NO_CLASS = ("__ignore__", "_ignore_", "__void__", "_background_", "__background__")  # by no means


def without_background(names: list[str]) -> list[str]:
    """The classes among the names of a list that may begin with labelme's ``__ignore__`` and
    ``_background_``, which are none; the plain words are classes unless they come first."""
    names = [name for name in names if name not in NO_CLASS]
    return names[1:] if names and names[0] == "background" else names


def voc_palette() -> np.ndarray:
    """(256, 3) int64 RGB of VOC's numbers: bits of the number, spread over the three channels."""
    index, bit, channel = np.ogrid[:256, :8, :3]
    return (((index >> (3 * bit + channel)) & 1) << (7 - bit)).sum(axis=1)


_VOC_COLOURS = (voc_palette() @ (1 << 16, 1 << 8, 1)).tolist()  # by number
_VOC_NUMBERS = {colour: number for number, colour in enumerate(_VOC_COLOURS)}


def read_label_colours(path: str | os.PathLike[str]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and label numbers (class id + 1, 0, 255) by colour (r << 16 | g << 8 | b).

    The lines are ``name:r,g,b:parts:actions``; a line without a colour has that of its place in
    VOC's palette.

    Raises:
        DataError: missing, or not such a file.
    """
    lines = [line for line in read_lines(path, "label map") if line and not line.startswith("#")]
    names: list[str] = []
    numbers: dict[int, int] = {}
    for place, line in enumerate(lines):
        name, _, rest = line.partition(":")
        with naming(f"label map {path}: line {short(line)}"):
            colour = _colour(rest.partition(":")[0], place)
            if not name or name in names or colour in numbers:
                raise ValueError("names no class, or one or a colour that occurred before")
        number = 0 if name in BACKGROUND else 255
        if name not in (*BACKGROUND, *IGNORED):
            names.append(name)
            number = len(names)
        numbers[colour] = number
    if not names or len(names) > 254:
        raise DataError(f"label map {path} names {len(names)} classes; 1 to 254 are possible")
    return tuple(names), numbers


def _colour(text: str, place: int) -> int:
    if not text.strip():
        return _VOC_COLOURS[place % 256]
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() and int(p) < 256 for p in parts):
        raise ValueError("is not name:r,g,b:parts:actions with a colour of 0 to 255")
    r, g, b = map(int, parts)
    return (r << 16) | (g << 8) | b


@lru_cache(maxsize=8)
def _colours_at(path: Path, _changed: float) -> dict[int, int]:
    return read_label_colours(path)[1]


def numbers_of_colours(image: np.ndarray, path: Path, *, objects: bool) -> np.ndarray:
    """(H, W) int32 numbers of a label map (H, W, 3) uint8 at ``path``.

    Classes go by ``labelmap.txt`` in the root of the tree, two folders above. Without it, and for
    ``objects``, grey is the number and other colours are those of VOC's palette; objects of any
    other colours are numbered.

    Raises:
        ValueError: a colour means nothing; the text completes a sentence.
    """
    r, g, b = (image[..., channel].astype(np.int64) for channel in range(3))
    found, places = np.unique((r << 16) | (g << 8) | b, return_inverse=True)
    file = path.absolute().parent.parent / LABEL_MAP_FILE
    table = _VOC_NUMBERS
    if not objects and file.is_file():
        table = {0: 0, 0xE0E0C0: 255} | _colours_at(file, file.stat().st_mtime)
    elif ((found >> 16 == found & 255) & (found >> 8 & 255 == found & 255)).all():
        table = {int(colour): int(colour) & 255 for colour in found}
    elif objects and not {*found.tolist()} <= table.keys():
        table = {0: 0} | {int(c): n for n, c in enumerate(found[found > 0], start=256)}
    unknown = [colour for colour in found.tolist() if colour not in table]
    if unknown:
        colour = f"{unknown[0] >> 16}, {unknown[0] >> 8 & 255}, {unknown[0] & 255}"
        raise ValueError(
            f"it is a colour picture, and {file} does not say which class has the colour {colour}; "
            "write a line name:r,g,b:: for each class there, or save label maps as palette PNGs"
        )
    numbers = np.array([table[colour] for colour in found.tolist()], dtype=np.int32)
    return numbers[places].reshape(image.shape[:2])
