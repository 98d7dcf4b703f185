"""The original CIM's checkpoints: names translated (spec 10)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wsis.modeling.weight_names import (
    by_prefix,
    renamed,
    require_entries,
    torchvision_resnet_to_detectron2,
)

_head_name = by_prefix(
    {
        "Box_Head.mask_branch.0.": "roi_heads.head.fuse.",
        "Box_Head.seg_fc.0.": "roi_heads.head.fc1.",
        "Box_Head.seg_fc.2.": "roi_heads.head.fc2.",
        "cls_iou_model.classifier.": "roi_heads.scorer.classifier.",
        "cls_iou_model.detector.": "roi_heads.scorer.detector.",
        "cls_iou_model.refine_cls.": "roi_heads.scorer.refine_classes.",
        "cls_iou_model.refine_iou.": "roi_heads.scorer.refine_integrity.",
    }
)
_torchvision_name = by_prefix(
    {"res1.0.": "conv1.", "res1.1.": "bn1."}
    | {f"res{layer + 1}.": f"layer{layer}." for layer in range(1, 5)}
)
# VGG-16: each stage and the number of its first layer in timm; HRNet's names are timm's already.
_body_name = by_prefix(
    {
        f"conv{stage}.{i}.": f"features.{first + i}."
        for stage, first in ((1, 0), (2, 5), (3, 10), (4, 17), (5, 24))
        for i in range(10)
    }
    | {"": ""}
)


def convert_trunk(state: Mapping[str, Tensor], prefix_to: str = "backbone.") -> dict[str, Tensor]:
    """The backbone of a checkpoint (names without ``Conv_Body.``) in our names.

    VGG-16 gets timm's (``body.features.10.weight``), ResNet-50 ours (``res2.0.conv1.weight``). Any
    other (HRNet-W48, whose names are timm's) keeps its names; its unused classifier and its
    counters are left out.
    """
    if "res1.0.weight" in state:
        resnet = renamed(state, _torchvision_name)
        return torchvision_resnet_to_detectron2(resnet, prefix_to=prefix_to)
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith("classifier.") and not name.endswith("num_batches_tracked")
    }
    return renamed(kept, _body_name, f"{prefix_to}body.")


def convert_cim(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of the original in the names of our `CIM`.

    ``state`` ("model" in its files) has the weights of a network on VGG-16, ResNet-50 or HRNet-W48.

    Raises:
        DataError: this is no CIM checkpoint: an entry is missing.
    """
    needed = ("Box_Head.mask_branch.0.weight", "cls_iou_model.classifier.weight")
    require_entries(state, "CIM's", *needed)
    trunk = renamed(state, by_prefix({"Conv_Body.": ""}))
    return convert_trunk(trunk) | renamed(state, _head_name)
