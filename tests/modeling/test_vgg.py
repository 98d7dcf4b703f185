import pytest
import torch
import torchvision
from wsis.errors import UsageError
from wsis.modeling.backbones.vgg import VGG16
from wsis.modeling.vgg_checkpoint import torchvision_vgg16_to_wsis


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    return torchvision.models.vgg16(weights=None, num_classes=1).features.eval()


@torch.no_grad()
def test_as_torchvision(original):
    trunk = VGG16(["conv3", "conv5"], pooled_stages=5, dilations=(1, 1, 1, 1, 1)).eval()
    state = {f"features.{name}": value for name, value in original.state_dict().items()}
    trunk.load_state_dict(torchvision_vgg16_to_wsis(state))
    picture = torch.rand(1, 3, 64, 96)
    found = trunk(picture)
    torch.testing.assert_close(found["conv5"], original(picture))
    torch.testing.assert_close(found["conv3"], original[:17](picture))
    shapes = trunk.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {"conv3": 8, "conv5": 32}
    for name, shape in shapes.items():
        assert found[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


@torch.no_grad()
def test_strides_and_dilation():
    trunk = VGG16(["conv4", "conv5"])
    found = trunk(torch.rand(2, 3, 40, 56))
    assert found["conv4"].shape == found["conv5"].shape == (2, 512, 5, 7)
    assert trunk.output_shape()["conv5"].stride == 8
    assert trunk.conv5[0].dilation == (2, 2)


def test_frozen_stages():
    trunk = VGG16(freeze_at=2)
    frozen = {name.split(".")[0] for name, p in trunk.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "conv2"}


def test_unknown_feature():
    with pytest.raises(UsageError, match=r"correct MODEL\.VGG"):
        VGG16(["conv6"])
