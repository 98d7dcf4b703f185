"""Trained networks that come with WSIS; ``wsis://NAME`` stands for one where weights are named.

Such a network is three files of this folder: ``NAME.pth``, its tensors; ``NAME.yaml``, the config
of the stage that runs it, which ``_BASE_`` takes under the same address; and the card ``NAME.md``:
what it was trained on, how, how good it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

from wsis.errors import DataError, UsageError, known_words

ADDRESS = "wsis://"
FOLDER = Path(__file__).parent


def ready_names() -> list[str]:
    """The networks that come with WSIS."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def ready_file(name: str, suffix: str = ".pth") -> Path:
    """A file of the network ``name``, which may be an address (``wsis://boxcaseg_ready``).

    Raises:
        UsageError: there is no such network.
        DataError: the installation lacks the file.
    """
    name, known = name.removeprefix(ADDRESS), ready_names()
    if name not in known:
        raise UsageError(f"WSIS comes with no network {name!r}; it has {known_words(name, known)}")
    path = FOLDER / f"{name}{suffix}"
    if not path.is_file():
        raise DataError(f"the installation of WSIS lacks {path}; install it again")
    return path


def packaged(weights: str) -> str:
    """The file of a ``wsis://`` address of weights; any other path or address as it is.

    Raises:
        WSISError: see `ready_file`.
    """
    return str(ready_file(weights)) if weights.startswith(ADDRESS) else weights


class _ReadyHandler(PathHandler):
    """Lets everything of Detectron2 that takes the address of weights take ``wsis://``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [ADDRESS]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return str(ready_file(path))


PathManager.register_handler(_ReadyHandler())
