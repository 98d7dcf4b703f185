"""Tags of images in a table: CSV as spreadsheets, Kaggle and scripts write it."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from wsis.data.checks import short
from wsis.data.formats.builder import Builder, Translated
from wsis.data.images import IMAGE_SUFFIXES
from wsis.data.problems import Problems
from wsis.errors import DataError, UsageError
from wsis.reading import MAX_TEXT_BYTES, open_file

_FILE = re.compile(r"(file|image|img|photo|picture|path|id)s?[ _-]?(name|path|id|file)?", re.I)
_TAGS = re.compile(r"(tag|label|class|categor|species)(s|es|y|ies)?([ _-]?names?)?[ _-]?\d*", re.I)
_ONE_HOT = {"0": False, "0.0": False, "false": False, "": False}
_ONE_HOT |= {"1": True, "1.0": True, "true": True}
_OF_BOXES = ("xmin", "ymin", "xmax", "ymax", "x1", "y1", "x2", "y2", "bbox")
_LOOKED_AT = 100  # rows, to find the column of the file names


class _Columns(NamedTuple):
    file: int
    tags: list[int]
    classes: list[str] | None  # of a table with a column of 0 and 1 for each class


def read_csv(entry: dict[str, Any], problems: Problems) -> Translated:
    """Read ``CSV``, whose pictures are in ``IMAGES``; pictures that it does not name are left out.

    A row is a file and its tags, or some of them; or there is a column of 0 and 1 for each class.

    Raises:
        DataError: the file cannot be read or is empty.
        UsageError: it is unclear which column has the tags.
    """
    path = Path(entry["CSV"])
    builder = Builder(path, entry["IMAGES"], problems)
    rows = read_table(path)
    header = None if _begins_with_data(rows[0], builder) else [c.strip() for c in rows.pop(0)]
    columns = _columns(header, rows, builder)
    boxes = [name for name in header or () if name.lower() in _OF_BOXES]
    if boxes:
        told = f"only tags are read, not the boxes in {', '.join(boxes)}"
        problems.warning(told, file=path, left_out=len(rows))
    images: dict[str, int | str | None] = {}
    for row in rows:
        cells = [cell.strip() for cell in row] + [""] * (len(header or ()) - len(row))
        name = cells[columns.file] if columns.file < len(cells) else ""
        if name not in images:
            images[name] = builder.image(name)
        image = images[name]
        if image is None:
            continue
        if columns.classes is None:
            builder.tag(image, (tag for column in columns.tags for tag in _split(cells, column)))
        else:
            pairs = zip(columns.tags, columns.classes, strict=True)
            builder.tag(image, (name for column, name in pairs if _ONE_HOT[cells[column].lower()]))
    builder.pass_over_others("image that the table does not name")
    classes = columns.classes
    return builder.finish(None if classes is None else dict(enumerate(classes, start=1)))


def read_table(path: str | os.PathLike[str]) -> list[list[str]]:
    """The rows of a CSV file, at least one; empty rows are left out.

    The text is UTF-8, UTF-16 with a byte order mark, or else Windows' Latin 1; of comma, semicolon
    and tab the one that comes first separates.

    Raises:
        DataError: missing, no regular file, too large, empty, no CSV.
    """
    try:
        with open_file(path, limit=MAX_TEXT_BYTES) as stream:
            data = stream.read()
        lines = _decode(data).lstrip("\r\n ").splitlines(keepends=True)
        first = re.sub(r'"[^"]*"', "", lines[0] if lines else "")
        separator = next((mark for mark in first if mark in ",;\t"), ",")
        lines = lines[first.startswith("sep=") :]  # a hint for Excel
        rows = [row for row in csv.reader(lines, delimiter=separator) if any(map(str.strip, row))]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file ({error})") from error
    if not rows:
        raise DataError(f"{path} is empty; a row has a file and its tags")
    return rows


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _is_picture(cell: str, builder: Builder) -> bool:
    try:
        return bool(builder.finder.locate(cell))
    except ValueError:
        return False


def _begins_with_data(row: list[str], builder: Builder) -> bool:
    """Whether the first row is no header."""
    cells = [cell.strip() for cell in row]
    if any(os.path.splitext(cell)[1].lower() in IMAGE_SUFFIXES for cell in cells):
        return True
    usual = any(_FILE.fullmatch(cell) for cell in cells)
    return not usual and any(_is_picture(cell, builder) for cell in cells)


def _columns(header: list[str] | None, rows: list[list[str]], builder: Builder) -> _Columns:
    width = max([len(header or ()), *map(len, rows)])
    names = [*(header or ()), *[""] * (width - len(header or ()))]

    def likely(column: int) -> tuple[int, bool]:
        cells = [row[column] for row in rows[:_LOOKED_AT] if column < len(row)]
        found = sum(_is_picture(cell, builder) for cell in cells)
        return found, bool(_FILE.fullmatch(names[column]))

    file = max(range(width), key=likely)
    others = [column for column in range(width) if column != file]
    if header is None:
        if _has_numbers(rows, others):
            raise UsageError(
                f"{builder.source}: which column has the tags? Add a first row with the names of "
                "the columns: file, tags, and others"
            )
        return _Columns(file, others, None)
    tags = [column for column in others if _TAGS.fullmatch(names[column])]
    if tags:
        beyond = [column for column in others if column >= len(header)]
        return _Columns(file, tags + beyond, None)
    one_hot = [
        column
        for column in others
        if names[column]
        and all(row[column].strip().lower() in _ONE_HOT for row in rows if column < len(row))
    ]
    if one_hot:
        return _Columns(file, one_hot, [names[column] for column in one_hot])
    if len(others) == 1:
        return _Columns(file, others, None)
    raise UsageError(
        f"{builder.source}: which column has the tags? Call it tags, beside "
        f"{short(names[file])} with the file names; there are {', '.join(names)[:200]}"
    )


def _has_numbers(rows: list[list[str]], columns: list[int]) -> bool:
    """Whether one of several columns holds numbers only, which are boxes rather than tags."""
    cells = ([row[column].strip() for row in rows if column < len(row)] for column in columns)
    return len(columns) > 1 and any(all(re.fullmatch(r"[\d.]+", c) for c in part) for part in cells)


def _split(cells: list[str], column: int) -> list[str]:
    """The tags in a cell, which are separated by semicolons, bars or commas."""
    cell = cells[column].strip("[]") if column < len(cells) else ""
    marks = "[;|]" if re.search("[;|]", cell) else ","
    return [tag for part in re.split(marks, cell) if (tag := part.strip(" '\""))]
