import pytest
import torch
from wsis.modeling.weight_names import torchvision_resnet_name, torchvision_resnet_to_detectron2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv3.weight", "res2.0.conv3.weight"),
        ("layer4.2.bn1.bias", "res5.2.conv1.norm.bias"),
        ("layer3.0.downsample.0.weight", "res4.0.shortcut.weight"),
        ("layer3.0.downsample.1.running_var", "res4.0.shortcut.norm.running_var"),
        ("layer3.10.conv2.weight", "res4.10.conv2.weight"),
        ("bn1.num_batches_tracked", None),
        ("fc.weight", None),
        ("stage1.0.weight", None),
    ],
)
def test_names(name, expected):
    assert torchvision_resnet_name(name) == expected


def test_prefixes():
    state = {"resnet50.conv1.weight": torch.ones(1), "other.conv1.weight": torch.ones(1)}
    converted = torchvision_resnet_to_detectron2(state, "resnet50.", "backbone.")
    assert list(converted) == ["backbone.stem.conv1.weight"]
    assert len(state) == 2
