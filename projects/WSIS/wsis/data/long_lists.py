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

    def entries(self, name: str, known: re.Pattern[str] | None = None) -> Iterator[Any]:
        """The entries of a list, one after another.

        An entry that ``known`` matches, a pattern of texts that end like it, comes as the match,
        of which `whole` reads the text: that takes a fifth of the time.

        Raises:
            Unusual: it is no list.
        """
        scan, matched = json.JSONDecoder().scan_once, known.match if known else _no  # type: ignore[attr-defined]
        with open(self.path, "rb") as stream:
            stream.seek(self._starts[name])
            raw, text, place, first = b"", "", 0, True
            while True:
                if first and text.startswith("]", place):
                    place += 1
                    break
                entry, follows = matched(text, place), None
                try:
                    entry, end = (entry, entry.end()) if entry else scan(text, place)
                    follows = _FOLLOWS.match(text, end)
                except (StopIteration, ValueError, RecursionError):
                    pass
                if follows is None:  # it goes on in the next piece
                    unread, piece = _behind(raw, text, place), stream.read(_PIECE)
                    if not piece or len(unread) > _LONGEST:
                        raise Unusual
                    raw = unread + piece
                    text = _text(raw)
                    place = _BLANK.match(text).end()  # type: ignore[union-attr]
                    continue
                yield entry
                place, first = follows.end(), False
                if follows[1] == "]":
                    break
            self._ends[name] = stream.tell() - len(_behind(raw, text, place))

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


def _no(text: str, place: int) -> None:
    """Matches nothing."""


def _text(raw: bytes) -> str:
    """Up to the last whole letter."""
    try:
        return codecs.utf_8_decode(raw, "strict", False)[0]
    except ValueError:
        raise Unusual from None


def _behind(raw: bytes, text: str, place: int) -> bytes:
    """What of ``raw`` follows on a place of its text."""
    return raw[len(text[:place].encode()) :]


def whole(entry: Any) -> Any:
    """What an entry says that `LongLists.entries` gives.

    Raises:
        Unusual: it is no JSON.
    """
    try:
        return json.loads(entry[0]) if isinstance(entry, re.Match) else entry
    except (ValueError, RecursionError):
        raise Unusual from None
