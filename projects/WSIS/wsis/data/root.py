"""Where data sets lie, for command lines too: nothing heavy is imported here."""

from __future__ import annotations

import os
from pathlib import Path


def datasets_root() -> Path:
    """The folder of all data sets: ``DETECTRON2_DATASETS``, default ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def duts_folders() -> tuple[Path, Path]:
    """The folders of DUTS' training images and masks, with or without a folder around them."""
    root = datasets_root() / "DUTS"
    folder = root / "DUTS-TR" if (root / "DUTS-TR").is_dir() else root
    return folder / "DUTS-TR-Image", folder / "DUTS-TR-Mask"


def find_in_datasets(name: str) -> str:
    """A path ``datasets/...`` of a config; below `datasets_root` if it only exists there."""
    path = Path(name)
    if path.parts[:1] != ("datasets",) or path.exists():
        return name
    there = datasets_root().joinpath(*path.parts[1:])
    return str(there) if there.exists() else name
