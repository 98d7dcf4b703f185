"""JSON files with long lists, whose entries are read one after another.

As Python's lists and numbers, the annotations of COCO take 2.5 GB.
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
_BLANK, _FOLLOWS = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*([,\]])")


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

    def entries(self, name: str) -> Iterator[Any]:
        """The entries of a list, one after another.

        Raises:
            Unusual: it is no list.
        """
        scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
        decoder = codecs.getincrementaldecoder("utf-8")()
        with open(self.path, "rb") as stream:
            stream.seek(self._starts[name])
            text, place, first = "", 0, True
            while True:
                place = _BLANK.match(text, place).end()  # type: ignore[union-attr]
                if first and text.startswith("]", place):
                    place += 1
                    break
                try:
                    entry, end = scan(text, place)
                    follows = _FOLLOWS.match(text, end)
                except (StopIteration, ValueError, RecursionError):
                    follows = None
                if follows is None:  # it goes on in the next piece
                    piece = stream.read(_PIECE)
                    if not piece or len(text) - place > _LONGEST:
                        raise Unusual
                    try:
                        text, place = text[place:] + decoder.decode(piece), 0
                    except ValueError:
                        raise Unusual from None
                    continue
                yield entry
                place, first = follows.end(), False
                if follows[1] == "]":
                    break
            unread = len(text[place:].encode()) + len(decoder.getstate()[0])
            self._ends[name] = stream.tell() - unread

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
