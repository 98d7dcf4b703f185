import math
import os
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from wsis.data.weights import trunk_weights
from wsis.modeling.backbones import TimmBackbone
from wsis.modeling.backbones.timm import create_body
from wsis.modeling.checkpoint import load_weights
from wsis.modeling.weight_names import torchvision_resnet_name, torchvision_resnet_to_detectron2

LITE0 = "tf_efficientnet_lite0"
# Kernel, blocks, expansion, channels and stride of its stages.
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 3, 6, 80, 2)]
STAGES += [(5, 3, 6, 112, 1), (5, 4, 6, 192, 2), (3, 1, 6, 320, 1)]


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


class PlainLite0:
    """EfficientNet-Lite0 on random weights under efficientnet_pytorch's names, as they are met."""

    def __init__(self):
        self.state = {}

    def layer(self, x, conv, norm, channels, kernel=1, stride=1, *, depthwise=False, limit=True):
        """TensorFlow's convolution, batch norm and, unless the layer is linear, ReLU6."""
        inputs = 1 if depthwise else x.shape[1]
        weight = torch.randn(channels, inputs, kernel, kernel) * (2 / inputs) ** 0.5 / kernel
        lacks = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in (x.shape[2:])]
        (top, left), (bottom, right) = ([n // 2 for n in lacks], [n - n // 2 for n in lacks])
        x = F.pad(x, (left, right, top, bottom))
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)
        own = {"weight": torch.rand(channels) + 0.5, "bias": torch.randn(channels) * 0.1}
        own |= {"running_mean": torch.randn(channels) * 0.1, "running_var": torch.rand(channels)}
        mean, variance = own["running_mean"], own["running_var"]
        x = F.batch_norm(x, mean, variance, own["weight"], own["bias"], eps=1e-3)
        self.state[f"{conv}.weight"] = weight
        self.state |= {f"{norm}.{leaf}": value for leaf, value in own.items()}
        return F.relu6(x) if limit else x

    def __call__(self, x):
        x, number = self.layer(x, "_conv_stem", "_bn0", 32, 3, 2), 0
        for kernel, blocks, expansion, channels, stride in STAGES:
            for block in range(blocks):
                at, before, wide = f"_blocks.{number}", x, x.shape[1] * expansion
                if expansion > 1:
                    x = self.layer(x, f"{at}._expand_conv", f"{at}._bn0", wide)
                by = stride if block == 0 else 1
                deep = (f"{at}._depthwise_conv", f"{at}._bn1", wide, kernel, by)
                x = self.layer(x, *deep, depthwise=True)
                x = self.layer(x, f"{at}._project_conv", f"{at}._bn2", channels, limit=False)
                x, number = x + before if block else x, number + 1
        return self.layer(x, "_conv_head", "_bn1", 1280)


@pytest.mark.parametrize("prefix", ["", "backbone.body."])
@torch.no_grad()
def test_efficientnet_lite0_in_other_names(prefix, tmp_path):
    torch.manual_seed(0)
    plain, image = PlainLite0(), torch.rand(1, 3, 65, 96)
    expected = plain(image)
    state = {prefix + name: value for name, value in plain.state.items()}
    torch.save(state | {f"{prefix}_fc.bias": torch.zeros(1000)}, tmp_path / "w.pth")
    model = torch.nn.Module()
    model.backbone = TimmBackbone(create_body(LITE0), {"res5": "final"}).eval()
    assert load_weights(model, tmp_path / "w.pth", strict=True) == []
    torch.testing.assert_close(model.backbone(image)["res5"], expected, rtol=0, atol=1e-4)


def test_the_installed_weights_are_those_of_timm():
    path = Path(
        os.environ.get("WSIS_DATA", "../shared/data"), "weights/efficientnet_lite0_timm.pth"
    )
    if not path.is_file():
        pytest.skip(f"no {path}; set WSIS_DATA")
    body = create_body(LITE0)
    load_weights(body, trunk_weights(LITE0), strict=True)
    expected = torch.load(path, weights_only=True)
    found = {name: v for name, v in body.state_dict().items() if "num_batches" not in name}
    assert found.keys() == expected.keys() - {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("file_of", "told"),
    [("efficientnet_b0", "blocks.0.0.se.conv_reduce"), (LITE0, "")],
)
def test_a_network_with_layers_between_is_told(file_of, told, tmp_path, caplog):
    """B0 has every weight of Lite0, and squeezes besides: such maps would be worth little."""
    path = tmp_path / "w.pth"
    torch.save(timm.create_model(file_of).state_dict(), path)
    assert load_weights(create_body(LITE0), path, strict=True) == []
    said = f"{path} has layers inside blocks of this MODEL that it lacks, first {told}: is it of "
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text.startswith(said) for text in warned] == ([True] if told else [])
