import os
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.errors import DataError, UsageError
from wsis.modeling.backbones import RunningStatsBatchNorm2d, TorchvisionBackbone
from wsis.modeling.backbones.torchvision import default_features, probe_strides


def cfg_of(name="mobilenet_v2", **keys):
    cfg = get_wsis_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TORCHVISION.NAME = name
    for key, value in keys.items():
        setattr(cfg.MODEL.TORCHVISION, key, value)
    return cfg


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", {"res2": "features.3", "res4": "features.13", "res5": "features"}),
        ("resnet18", {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}),
        ("squeezenet1_1", {"res2": "features.4", "res4": "features"}),
    ],
)
def test_features_are_found(name, expected):
    model = torchvision.models.get_model(name, weights=None)
    found = default_features(model, probe_strides(model))
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "squeezenet1_1"])
def test_stated_shapes_are_true(name):
    backbone = build_backbone(cfg_of(name))
    features = backbone(torch.randn(1, 3, 129, 97))
    for key, spec in backbone.output_shape().items():
        assert features[key].shape[1] == spec.channels
        assert abs(features[key].shape[-2] - 129 / spec.stride) <= 1.1
        assert abs(features[key].shape[-1] - 97 / spec.stride) <= 1.1


def test_trunk_computes_what_torchvision_computes():
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        expected = model.features(x)
        actual = TorchvisionBackbone(model).eval()(x)["res5"]
    assert torch.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "dilate"), [("mobilenet_v2", False), ("resnet18", True)])
def test_output_stride(name, dilate):
    backbone = build_backbone(cfg_of(name, OUTPUT_STRIDE=16, DILATE=dilate))
    features = backbone(torch.randn(1, 3, 97, 65))
    assert features["res5"].shape[-2:] == features["res4"].shape[-2:] == (7, 5)
    assert backbone.output_shape()["res5"].stride == 16
    dilations = [m.dilation[0] for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert max(dilations) == (2 if dilate else 1)


class Plain(nn.Module):
    """Laid out as VGG: 2x2 pools between convolutions, pooled to 7x7 at the end."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (4, 4, 8, 8, 8):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Linear(8 * 49, 5)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def test_plain_network_without_its_last_pool():
    model = Plain()
    assert default_features(model, probe_strides(model)) == {
        "res1": "features.4",
        "res2": "features.7",
        "res3": "features.10",
        "res4": "features.13",
        "res5": "features",
    }
    features = TorchvisionBackbone(model, output_stride=16)(torch.randn(1, 3, 64, 64))
    assert features["res5"].shape[-2:] == (4, 4)
    assert torch.equal(features["res5"], features["res4"])  # the pool is now the identity


def test_freezing_and_norms():
    cfg = cfg_of(NORM="RunningStatsBN")
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    backbone = build_backbone(cfg)
    norms = {n: type(m) for n, m in backbone.named_modules() if "Norm" in type(m).__name__}
    assert norms["body.features.3.conv.0.1"] is FrozenBatchNorm2d
    assert norms["body.features.4.conv.0.1"] is RunningStatsBatchNorm2d  # stride 4 but of block 4
    backbone.train()
    backbone(torch.randn(1, 3, 33, 33))["res5"].sum().backward()
    blocks = {
        n.split("features.")[1].split(".")[0]
        for n, p in backbone.named_parameters()
        if p.grad is not None
    }
    assert blocks == {str(i) for i in range(4, 19)}
    assert not any(type(m) is nn.BatchNorm2d for m in backbone.modules())


def test_all_norms_frozen_by_default():
    backbone = build_backbone(cfg_of())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    assert all(p.requires_grad for p in backbone.parameters())


def test_explicit_features_and_weights(tmp_path):
    source = torchvision.models.mobilenet_v2(weights=None)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    pairs = [["low", "features.3"], ["high", "features.13"]]
    backbone = build_backbone(cfg_of(WEIGHTS=str(tmp_path / "w.pth"), OUT_FEATURES=pairs))
    assert list(backbone.output_shape()) == ["low", "high"]
    state = backbone.state_dict()
    assert not any("features.14" in name for name in state)
    assert torch.equal(
        state["body.features.3.conv.0.0.weight"], source.features[3].conv[0][0].weight
    )


def test_wrong_weights_are_refused(tmp_path):
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "s.pth")
    with pytest.raises(DataError, match="mobilenet_v2.*features.0.0.weight"):
        build_backbone(cfg_of(WEIGHTS=str(tmp_path / "s.pth")))
    (tmp_path / "t.pth").write_bytes(b"PK no")
    with pytest.raises(DataError, match="t.pth"):
        build_backbone(cfg_of(WEIGHTS=str(tmp_path / "t.pth")))
    with pytest.raises(DataError, match="none.pth"):
        build_backbone(cfg_of(WEIGHTS=str(tmp_path / "none.pth")))


def test_wrong_names_are_refused():
    with pytest.raises(UsageError, match="no_net"):
        build_backbone(cfg_of("no_net"))
    with pytest.raises(UsageError, match="features.99"):
        build_backbone(cfg_of(OUT_FEATURES=[["a", "features.99"]]))
    with pytest.raises(UsageError, match="NORM"):
        build_backbone(cfg_of(NORM="nonsense"))


def test_feature_pyramid():
    cfg = cfg_of()
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    features = build_backbone(cfg)(torch.randn(1, 3, 64, 96))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]


def test_real_weights_recognise_something():
    root = Path(os.environ.get("WSIS_DATA", "../shared/data"))
    path = root / "weights" / "mobilenet_v2_tf2_ptq.pth"
    if not path.is_file():
        pytest.skip(f"no {path}; set WSIS_DATA")
    backbone = build_backbone(cfg_of(WEIGHTS=str(path))).train()
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    x = torch.rand(1, 3, 65, 97) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(backbone(x)["res5"], model.features(x), atol=1e-4)


def test_random_values_are_told_unless_weights_follow(caplog):
    caplog.set_level("INFO", logger="wsis.modeling")
    cfg = cfg_of("squeezenet1_1")
    cfg.MODEL.WEIGHTS = "trained.pth"
    build_backbone(cfg)
    assert not caplog.messages
    cfg.MODEL.WEIGHTS = ""
    build_backbone(cfg)
    assert "squeezenet1_1 starts from random values" in caplog.text
