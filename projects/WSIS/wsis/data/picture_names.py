"""Finds the pictures that an annotation file names, in the folder where they lie now."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path, PurePosixPath
from typing import Any

from wsis.data.checks import inside


class PictureFinder:
    r"""Names of pictures below a folder.

    A name is looked for as it is stated, then in other letter case, then without its leading
    folders, one after another: ``C:\work\images\a.JPG`` may be ``images/a.jpg`` or ``a.jpg``.

    Attributes:
        root: the folder.
        otherwise: names of the file that were found in another way, and what they are.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.otherwise: dict[str, str] = {}
        self._listings: dict[str, tuple[set[str], dict[str, str]]] = {}

    def _listing(self, folder: str) -> tuple[set[str], dict[str, str]]:
        """Names in a folder, and each by its small letters unless two share them; read once."""
        if folder not in self._listings:
            try:
                names = set(os.listdir(self.root / folder))
            except (OSError, ValueError):  # told where the picture is read
                names = set()
            small: dict[str, str] = {}
            for name in names:
                small[name.lower()] = "" if name.lower() in small else name
            self._listings[folder] = names, small
        return self._listings[folder]

    def _there(self, name: str) -> str:
        folder, base = posixpath.split(name)
        names, small = self._listing(folder)
        return name if base in names else posixpath.join(folder, small.get(base.lower()) or "")

    def find(self, name: Any) -> str:
        """The relative name of the picture; where it is nowhere, as stated.

        Raises:
            ValueError: no file name, or it leaves the folder and nothing in it has such a name.
        """
        if isinstance(name, str) and "\\" not in name and not name.startswith((".", "/")):
            folder, base = posixpath.split(name)
            if base in self._listing(folder)[0] and ".." not in folder:
                return inside(name)
        parts = PurePosixPath(name.replace("\\", "/") if isinstance(name, str) else "").parts
        for start in range(len(parts)):
            rest = parts[start:]
            if ".." in rest or rest[0] == "/" or "\0" in name:
                continue
            found = self._there(posixpath.join(*rest))
            if found and not found.endswith("/"):
                if found != posixpath.normpath(name):
                    self.otherwise[name] = found
                return found
        return inside(name).replace("\\", "/")
