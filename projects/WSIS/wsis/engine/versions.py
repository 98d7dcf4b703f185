"""Versions of the packages on which results depend."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import detectron2

import wsis

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "pycocotools")


def package_versions() -> dict[str, str]:
    """``{package: version}`` of WSIS, Python, Detectron2 and what they compute with."""
    versions = {
        "wsis": wsis.__version__,
        "python": platform.python_version(),
        "detectron2": detectron2.__version__,
    }
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
