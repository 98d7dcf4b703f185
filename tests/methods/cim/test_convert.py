import pytest
import torch
from wsis.errors import DataError
from wsis.methods.cim.convert import convert_cim, convert_trunk

HEADS = (
    "Box_Head.mask_branch.0.weight",
    "cls_iou_model.classifier.weight",
    "cls_iou_model.refine_iou.2.bias",
)


def state(*names):
    return {name: torch.full((1,), float(i)) for i, name in enumerate((*HEADS, *names))}


def test_vgg_and_heads():
    found = convert_cim(state("Conv_Body.conv3.0.weight"))
    assert found.keys() == {
        "roi_heads.head.fuse.weight",
        "roi_heads.scorer.classifier.weight",
        "roi_heads.scorer.refine_integrity.2.bias",
        "backbone.body.features.10.weight",
    }
    assert found["backbone.body.features.10.weight"] == 3


def test_resnet():
    names = (
        "res1.0.weight",
        "res1.1.running_mean",
        "res3.0.bn2.bias",
        "res4.0.downsample.0.weight",
    )
    found = convert_cim(state(*(f"Conv_Body.{name}" for name in names)))
    assert {name for name in found if name.startswith("backbone.")} == {
        "backbone.stem.conv1.weight",
        "backbone.stem.conv1.norm.running_mean",
        "backbone.res3.0.conv2.norm.bias",
        "backbone.res4.0.shortcut.weight",
    }


def test_hrnet_keeps_its_names():
    names = ("stage2.0.branches.0.0.conv1.weight", "classifier.weight", "bn1.num_batches_tracked")
    found = convert_trunk({name: torch.zeros(1) for name in names}, "")
    assert set(found) == {"body.stage2.0.branches.0.0.conv1.weight"}


def test_other_files():
    with pytest.raises(DataError, match="not CIM's weights: expected Box_Head"):
        convert_cim({"conv1.weight": torch.zeros(1)})
