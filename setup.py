"""Installs the package ``wsis``; torch and detectron2 must be there already (see README.md)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

SOURCE = Path("projects") / "WSIS"
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (SOURCE / "wsis" / "__init__.py").read_text(), re.MULTILINE
).group(1)

setup(
    name="wsis",
    version=VERSION,
    description="Weakly supervised instance segmentation on Detectron2",
    python_requires=">=3.11",
    package_dir={"": str(SOURCE)},
    packages=find_packages(str(SOURCE)),
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "timm>=1.0.31",
        "safetensors",
        "fvcore",
        "numpy>=1.24",
        "scipy>=1.10",
        "pycocotools>=2.0.6",
        "pillow>=9.4",
        "matplotlib",
        "tqdm",
    ],
)
