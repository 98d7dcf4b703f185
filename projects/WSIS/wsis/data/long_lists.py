"""JSON files with long lists, whose entries are read one after another.

As Python's lists and numbers, the annotations of COCO take 2.5 GB. Most of the time to read them
goes into the numbers of their polygons, which may stay text until many are read at once.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wsis.data.checks import MAX_JSON_BYTES
from wsis.reading import open_file

_PIECE = 1 << 22  # bytes that are read at once
_LONGEST = 1 << 26  # characters of an entry
_BEGINS = re.compile(rb"[ \t\r\n]{0,99}:[ \t\r\n]{0,99}\[")
_BLANK, _FOLLOWS = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
# The first list in a list; what has other lists or strings in it is no polygon anyway.
_SPACE = rb"[ \t\r\n]*"
_POLYGON = re.compile(rb'("segmentation"S:S\[S\[)(?!S\[)([^]]*)(\])'.replace(b"S", _SPACE))
_STAND_IN = "-Infinity"  # is no JSON, but Python reads it


class Unusual(Exception):
    """A file that must be read as a whole, to be read or to be told what is wrong with it."""


class LongLists:
    """An object in UTF-8 in which each of some names occurs once, as the name of a list.

    Args:
        path: the file.
        names: the lists.

    Raises:
        Unusual: a name is not there once, or the file cannot be read.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self._ends = path, dict[str, int]()
        keys, self._starts = [f'"{name}"'.encode() for name in names], dict[str, int]()
        before, place = b"", 0
        try:
            with open_file(path, limit=MAX_JSON_BYTES) as stream:
                while piece := stream.read(_PIECE):
                    text = before + piece
                    for name, key in zip(names, keys, strict=True):
                        self._note(name, key, text, place)
                    before, place = text[-256:], place + len(text) - len(text[-256:])
        except (OSError, ValueError):
            raise Unusual from None
        if len(self._starts) < len(names):
            raise Unusual

    def _note(self, name: str, key: bytes, text: bytes, place: int) -> None:
        """Note where the list of a name starts in ``text``, which is at ``place`` in the file."""
        found = text.find(key)
        while found >= 0:
            if begins := _BEGINS.match(text, found + len(key)):
                start = place + begins.end()
                if self._starts.setdefault(name, start) != start:
                    raise Unusual
            found = text.find(key, found + 1)

    def entries(self, name: str, *, polygons: bool = False) -> Iterator[Any]:
        """The entries of a list, one after another.

        With ``polygons``, where a "segmentation" is a list of lists, the first of these has its
        text in bytes as its only item; `whole` reads that.

        Raises:
            Unusual: it is no list.
        """
        with open(self.path, "rb") as stream:
            stream.seek(self._starts[name])
            window, place, first = _Window(b"", polygons), 0, True
            while True:
                if first and window.text.startswith("]", place):
                    place += 1
                    break
                try:
                    entry, end = window.scan(window.text, place)
                    follows = _FOLLOWS.match(window.text, end)
                except (StopIteration, ValueError, RecursionError):
                    follows = None
                if follows is None:  # it goes on in the next piece
                    unread, piece = window.behind(place), stream.read(_PIECE)
                    if not piece or len(unread) > _LONGEST:
                        raise Unusual
                    window = _Window(unread + piece, polygons)
                    place = _BLANK.match(window.text).end()  # type: ignore[union-attr]
                    continue
                yield entry
                place, first = follows.end(), False
                if follows[1] == "]":
                    break
            self._ends[name] = stream.tell() - len(window.behind(place))

    def rest(self) -> dict[str, Any]:
        """The object; lists that `entries` has read to their ends hold the place where they start.

        Raises:
            Unusual: it is no JSON, or a list is not where it should be.
        """
        text, place = b"", 0
        with open(self.path, "rb") as stream:
            for start, name in sorted((start, name) for name, start in self._starts.items()):
                stream.seek(place)
                text += stream.read(max(start - place, 0)) + b"%d]" % start
                place = self._ends[name]
            stream.seek(place)
            text += stream.read()
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise Unusual from None
        if not isinstance(content, dict) or any(
            content.get(name) != [start] for name, start in self._starts.items()
        ):  # another list has that name, too, whose key is written otherwise ("\u0061")
            raise Unusual
        return content


class _Window:
    """A part of a list, as text with words in place of polygons.

    Attributes:
        text: up to the last whole letter.
        scan: of `json`.
    """

    def __init__(self, raw: bytes, polygons: bool) -> None:
        self._raw, parts, take = raw, [raw], None
        if polygons:
            if _STAND_IN.encode() in raw:
                raise Unusual
            parts = _POLYGON.split(raw)
        self._polygons = parts[2::4]
        if polygons:
            parts[2::4] = [_STAND_IN.encode()] * len(self._polygons)
            rest = iter(self._polygons)
            take = lambda word: next(rest) if word == _STAND_IN else float(word)  # noqa: E731
        try:
            self.text = codecs.utf_8_decode(b"".join(parts), "strict", False)[0]
        except ValueError:
            raise Unusual from None
        self.scan = json.JSONDecoder(parse_constant=take).scan_once  # type: ignore[attr-defined]

    def behind(self, place: int) -> bytes:
        """What follows in the file on a place of the text."""
        polygons = self._polygons[: self.text.count(_STAND_IN, 0, place)]
        longer = sum(map(len, polygons)) - len(_STAND_IN) * len(polygons)
        return self._raw[len(self.text[:place].encode()) + longer :]


def whole(value: Any) -> Any:
    """An entry with the numbers of its polygons in place of their texts.

    Raises:
        Unusual: they are no JSON.
    """
    try:
        return _whole(value)
    except (ValueError, RecursionError):
        raise Unusual from None


def _whole(value: Any) -> Any:
    if type(value) is dict:
        return {key: _whole(item) for key, item in value.items()}
    if type(value) is list:
        if len(value) == 1 and type(value[0]) is bytes:
            return json.loads(f"[{value[0].decode()}]")
        return [_whole(item) if type(item) in (dict, list) else item for item in value]
    return value
