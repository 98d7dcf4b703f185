"""Small checks for all readers of files from outside.

Each raises a ValueError whose text completes a sentence: the reader adds file, image and field.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from wsis.data.problems import FieldError
from wsis.errors import DataError, near_file
from wsis.reading import open_file, read_text

MAX_JSON_BYTES = 8 << 30
_PLAIN_PATH = re.compile(r"[\w-][\w./ -]*", re.ASCII)
_FAR = 1e9  # pixels; no box reaches so far beyond an image by mistake
MAX_NAME_BYTES = 220  # file systems allow 255, of which suffixes and temporary names take some


def number(value: Any) -> float:
    """A finite JSON number as float; booleans and text are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"is {short(value)}, not a number")
    try:
        result = float(value)
    except OverflowError:
        raise ValueError("is absurdly large") from None
    if not math.isfinite(result):
        raise ValueError(f"is {result}, not a finite number")
    return result


def identity(value: Any) -> int | str:
    """An id of a file from outside: an integer of 64 bits, else a word.

    Several tools write 12 as 12.0 or as "12"; True and 2.5 are refused.
    """
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, str) and value.strip():
        digits = value.removeprefix("-")
        plain = digits.isascii() and digits.isdigit() and digits == (digits.lstrip("0") or "0")
        return integer(int(value)) if plain and len(digits) < 20 else value
    if isinstance(value, float) and value.is_integer():
        return integer(int(value))
    raise ValueError(f"is {short(value)}, not an integer of 64 bits or a word")


def integer(value: Any) -> int:
    """A JSON integer of at most 64 bits; 3.0 and True are refused."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"is {short(value)}, not an integer of 64 bits")
    return value


def finite(value: Any, count: int | None = None) -> list[float]:
    """A list of finite numbers, of the length ``count`` if given."""
    if not isinstance(value, (list, tuple)) or (count is not None and len(value) != count):
        wanted = "a list of numbers" if count is None else f"a list of {count} numbers"
        raise ValueError(f"is {short(value)}, not {wanted}")
    kinds = {*map(type, value)}
    try:  # nearly always all are plain, which takes a tenth of the time
        plain = kinds <= {float, int} and math.isfinite(sum(value))
    except OverflowError:
        plain = False
    if plain:
        return [*(value if kinds == {float} else map(float, value))]
    return [*map(number, value)]


def numbers(value: Any, count: int | None = None) -> list[float]:
    """A list of pixel coordinates or sides, of the length ``count`` if given."""
    found = finite(value, count)
    if found and max(max(found), -min(found)) > _FAR:
        raise ValueError(f"holds {max(found, key=abs):g}, which is absurdly far away")
    return found


def clip_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> list[float]:
    """The part inside an image of ``size`` (H, W) of a box x0, y0, x1, y1.

    In pixels, 0-based, far edges exclusive.

    Raises:
        ValueError: nothing of it has an area or lies inside.
    """
    x0, y0, x1, y1 = box
    height, width = size
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"has no area ({x0:g}, {y0:g} to {x1:g}, {y1:g})")
    clipped = [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise ValueError(
            f"({x0:g}, {y0:g} to {x1:g}, {y1:g}) lies outside its image of {width} x {height}"
        )
    return clipped


def inside(name: Any, *, colon: bool = False) -> str:
    """A relative file name that stays inside its root.

    Its first part may have a ``colon`` only if so stated: elsewhere that names a drive.
    """
    if isinstance(name, str) and _PLAIN_PATH.fullmatch(name) and ".." not in name:
        return name  # nearly always
    path = PurePosixPath(name.replace("\\", "/") if isinstance(name, str) else "")
    if not path.parts or "\0" in name:
        raise ValueError(f"is {short(name)}, not a file name")
    if path.is_absolute() or ".." in path.parts or (":" in path.parts[0] and not colon):
        raise ValueError(f"{short(name)} leaves its folder")
    return name


def folder_name(value: Any) -> str:
    """A name that can be a file's or a folder's: printable, without slashes, not hidden, short."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"is {short(value)}, not a name")
    if not value.isprintable() or "/" in value or "\\" in value or value.startswith("."):
        raise ValueError(
            f"is {short(value)}, which cannot name a folder: no slashes, control characters or dot "
            "at its beginning"
        )
    return short_name(value)


def short_name(value: str) -> str:
    """A name that file systems take together with a suffix."""
    if len(os.fsencode(value)) > MAX_NAME_BYTES:
        raise ValueError(
            f"has {len(os.fsencode(value))} bytes ({short(value)}); {MAX_NAME_BYTES} are the limit"
        )
    return value


def short(value: Any) -> str:
    """``repr`` of a value from outside, cut to a length that fits into a message."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def load_json(
    path: str | os.PathLike[str],
    *,
    limit: int = MAX_JSON_BYTES,
    hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Parse a JSON file of at most ``limit`` bytes.

    ``hook`` takes each object as soon as it is read, and gives what stands in its place.

    Raises:
        DataError: missing, no regular file, not JSON, nested absurdly, or larger than ``limit``.
    """
    try:
        with open_file(path, limit=limit) as stream:
            return json.load(stream, object_hook=hook)
    except DataError:  # of the hook
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist{near_file(os.fspath(path))}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a readable JSON file ({error})") from error


def read_lines(
    path: str | os.PathLike[str], what: str, advice: str = "see datasets/README.md"
) -> list[str]:
    """The lines of a text file, without white space around them; ``what`` says what it is.

    Raises:
        DataError: missing, with ``advice`` what to do then; not readable as text.
    """
    try:
        return [line.strip() for line in read_text(path).splitlines()]
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist; {advice}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{what} {path} cannot be read ({error})") from error


@contextmanager
def naming(place: str) -> Iterator[None]:
    """A ValueError inside becomes a DataError that begins with ``place``; a DataError stays."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def field(entry: Mapping[str, Any], name: str, check: Callable[..., Any], *args: Any) -> Any:
    """``check(entry[name], *args)``, of None where that is missing.

    Raises:
        FieldError: its ValueError, with the field's name.
    """
    try:
        return check(entry.get(name), *args)
    except ValueError as error:
        raise FieldError(name, str(error)) from error
