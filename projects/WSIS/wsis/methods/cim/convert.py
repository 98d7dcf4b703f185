"""The original CIM's checkpoints: names translated (spec 10)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from wsis.errors import DataError
from wsis.modeling.checkpoint import renamed, torchvision_resnet_to_detectron2

_HEADS = {
    "Box_Head.mask_branch.0": "roi_heads.head.fuse",
    "Box_Head.seg_fc.0": "roi_heads.head.fc1",
    "Box_Head.seg_fc.2": "roi_heads.head.fc2",
    "cls_iou_model.classifier": "roi_heads.scorer.classifier",
    "cls_iou_model.detector": "roi_heads.scorer.detector",
}
_BRANCHES = {
    "cls_iou_model.refine_cls": "roi_heads.scorer.refine_classes",
    "cls_iou_model.refine_iou": "roi_heads.scorer.refine_integrity",
}
_TRUNK = "Conv_Body."
_VGG = {1: 0, 2: 5, 3: 10, 4: 17, 5: 24}  # stage of VGG-16 to the place of its first convolution


def _head_name(name: str) -> str | None:
    """Our name of an entry behind the backbone; None where it is none."""
    stem, _, leaf = name.rpartition(".")
    if stem in _HEADS:
        return f"{_HEADS[stem]}.{leaf}"
    stem, _, branch = stem.rpartition(".")
    return f"{_BRANCHES[stem]}.{branch}.{leaf}" if stem in _BRANCHES else None


def _torchvision_name(name: str) -> str:
    """``res1.0``, ``res1.1``, ``res2``, ... of the original's ResNet in torchvision's names."""
    for theirs, ours in (("res1.0.", "conv1."), ("res1.1.", "bn1.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    match = re.fullmatch(r"res([2-5])\.(.*)", name)
    return f"layer{int(match[1]) - 1}.{match[2]}" if match else name


def _vgg_name(name: str) -> str:
    """``conv3.0.weight`` of the original's VGG-16 as timm has it; other names as they are."""
    match = re.fullmatch(r"conv([1-5])\.(\d)\.(.*)", name)
    return f"features.{_VGG[int(match[1])] + int(match[2])}.{match[3]}" if match else name


def convert_trunk(state: Mapping[str, Tensor], prefix_to: str = "backbone.") -> dict[str, Tensor]:
    """The backbone of a checkpoint, its names without ``Conv_Body.``, in ours.

    VGG-16 as timm's ``body.features.10.weight``; ResNet-50 as ``res2.0.conv1.weight``; any other
    (HRNet-W48, whose names are timm's) unchanged but for its unused classifier and its counters.
    """
    if "res1.0.weight" in state:
        renamed = {_torchvision_name(name): value for name, value in state.items()}
        return torchvision_resnet_to_detectron2(renamed, prefix_to=prefix_to)
    return {
        f"{prefix_to}body.{_vgg_name(name)}": value
        for name, value in state.items()
        if not name.startswith("classifier.") and not name.endswith("num_batches_tracked")
    }


def convert_cim(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of the original in the names of our `CIM`.

    ``state`` ("model" in its files) is of a network on VGG-16, ResNet-50 or HRNet-W48.

    Raises:
        DataError: this is no CIM checkpoint: an entry is missing.
    """
    for needed in ("Box_Head.mask_branch.0.weight", "cls_iou_model.classifier.weight"):
        if needed not in state:
            raise DataError(f"these are not CIM's weights: no entry {needed}")
    trunk = {k.removeprefix(_TRUNK): v for k, v in state.items() if k.startswith(_TRUNK)}
    return convert_trunk(trunk) | renamed(state, _head_name)
