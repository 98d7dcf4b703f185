"""Finds the pictures that an annotation file names, in the folder where they lie now."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

from wsis.data.checks import inside, short
from wsis.data.images import pictures_below

_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio, before the name of an uploaded file


class PictureFinder:
    r"""Names of pictures below a folder.

    A name may be a path of another machine: ``C:\work\images\a.JPG`` is ``images/a.jpg`` or
    ``a.jpg``, in any folder. The longest end of it that is there counts, in any letter case; else
    what it is in a web address; else without Label Studio's mark of an upload; else with another
    suffix, or one where it has none.

    Attributes:
        root: the folder.
        otherwise: names that `find` found in another way, and what they are.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.otherwise: dict[str, str] = {}
        self._listings: dict[str, set[str]] = {}

    @cached_property
    def pictures(self) -> list[str]:
        """As `pictures_below`; read once."""
        return pictures_below(self.root)

    @cached_property
    def known(self) -> set[str]:
        """The same."""
        return set(self.pictures)

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """Pictures by the ends of their paths, and by those without a suffix."""
        found: dict[str, list[str]] = {}
        for picture in self.pictures:
            for end in ends_of(picture):
                for name in (end, posixpath.splitext(end)[0]):
                    found.setdefault(_plain(name), []).append(picture)
        return found

    def locate(self, name: Any) -> str:
        """The path below the folder of the picture that a tool calls ``name``.

        Raises:
            ValueError: none, or several; the text completes a sentence.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"is {short(name)}, not a file name")
        path = name.strip().replace("\\", "/").removeprefix("./")
        if path in self.known:
            return path
        for end in _likely(path):
            found = list(dict.fromkeys(self._by_end.get(_plain(end), ())))
            if len(found) > 1:
                raise ValueError(f"{short(name)} may be {found[0]} or {found[1]} of {self.root}")
            if found:
                return found[0]
        raise ValueError(f"{short(name)} is not in {self.root}")

    def find(self, name: Any) -> str:
        """As `locate`; where it is nowhere, or may be several, as stated.

        Raises:
            ValueError: no file name, or it leaves the folder and nothing in it has such a name.
        """
        if isinstance(name, str) and "\\" not in name and not name.startswith((".", "/")):
            folder, base = posixpath.split(name)
            if base in self._listing(folder) and ".." not in folder:  # nearly always
                return inside(name)
        try:
            found = self.locate(name) if self.root.is_dir() else ""
        except ValueError:
            found = ""
        if not found:
            return inside(name).replace("\\", "/")
        if found != posixpath.normpath(name):
            self.otherwise[name] = found
        return found

    def _listing(self, folder: str) -> set[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = set(os.listdir(self.root / folder))
            except (OSError, ValueError):  # told where the picture is read
                self._listings[folder] = set()
        return self._listings[folder]


def _plain(name: str) -> str:
    return normalize("NFC", name).lower()


def _likely(path: str) -> Iterator[str]:
    """What may be the end of the path of the picture at ``path``, best first."""
    folder, base = posixpath.split(unquote(path.partition("?")[0]))
    uploaded = posixpath.join(folder, _UPLOADED.sub("", base))
    ways = dict.fromkeys((path, posixpath.join(folder, base), uploaded))
    ends = [end for way in ways for end in ends_of(way) if end]
    yield from ends
    yield from (posixpath.splitext(end)[0] for end in ends)


def ends_of(path: str) -> list[str]:
    """The path, and what remains of it when its first folders are taken away one by one."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
