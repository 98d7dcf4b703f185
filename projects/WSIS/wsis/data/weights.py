"""The weight files that the shipped configs start from, and where they come from.

Nothing heavy is imported here: ``datasets/prepare_weights.py`` reads it before it parses.
"""

from __future__ import annotations

import shlex
from pathlib import Path

URL = "https://download.pytorch.org/models/"
FOLDER = Path("datasets/weights")
# torchvision's names; the end of each is the beginning of the file's SHA-256.
WEIGHTS = {
    "resnet50": "resnet50-19c8e357.pth",
    "resnet101": "resnet101-5d3b4d8f.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "vgg16": "vgg16-397923af.pth",
}
_ELSEWHERE = {
    "hrnetv2_w48_imagenet_pretrained.pth": "take it from the page of HRNet-Image-Classification "
    "(github.com/HRNet) and put it there"
}


def how_to_get(path: Path) -> str:
    """How to get the missing weight file ``path``, as advice; "" for an unknown file."""
    for name, file_name in WEIGHTS.items():
        if path.name == file_name:
            root = "" if path.parent == FOLDER else f" --root {shlex.quote(str(path.parent))}"
            return f"run python datasets/prepare_weights.py --name {name} --download{root}"
    return _ELSEWHERE.get(path.name, "")
