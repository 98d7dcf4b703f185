import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.errors import UsageError
from wsis.modeling.backbones.hrnet import HRNet
from wsis.modeling.checkpoint import load_weights

SMALL = {"modules": (1, 2, 1), "blocks": 1, "stem_channels": 8, "first_planes": 4}
CHANNELS = (4, 6, 8, 10)


def small(**options):
    return HRNet(CHANNELS, **(SMALL | {"first_blocks": 1, "init": "msra"} | options))


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (9, 5)])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_branches_of_any_image_size(size, upsample):
    found = small(upsample=upsample)(torch.rand(2, 3, *size))
    expected = list(size)
    for name, channels in zip(("res2", "res3", "res4", "res5"), CHANNELS, strict=True):
        while name == "res2" and expected == list(size):
            expected = [(((n + 1) // 2) + 1) // 2 for n in size]
        assert found[name].shape == (2, channels, *expected), name
        expected = [(n + 1) // 2 for n in expected]


def test_shapes_that_detectron2_asks_for():
    spec = small(out_features=("res2", "res4")).output_shape()
    assert spec == {
        "res2": ShapeSpec(channels=4, stride=4),
        "res4": ShapeSpec(channels=8, stride=16),
    }


def test_freezing():
    model = small(freeze_at=3)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.split(".")[0] for n in frozen} == {
        "conv1",
        "conv2",
        "layer1",
        "transition1",
        "stage2",
    }
    assert {n.split(".")[0] for n in trained} == {"transition2", "stage3", "transition3", "stage4"}
    assert isinstance(model.bn1, FrozenBatchNorm2d)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.stage2.modules())
    assert not [p for p in small(freeze_at=5).parameters() if p.requires_grad]


def test_momentum_and_initial_weights():
    model = small(norm_momentum=0.01, init="normal")
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}
    weights = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.001, rel=0.1)


def hrnet_cfg():
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_hrnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    keys = cfg.MODEL.HRNET
    keys.CHANNELS, keys.MODULES, keys.BLOCKS = list(CHANNELS), [1, 2, 1], 1
    keys.STEM_CHANNELS, keys.FIRST_PLANES, keys.FIRST_BLOCKS = 8, 4, 1
    return cfg


def test_imagenet_weights_find_their_places(tmp_path, caplog):
    """A file of the original repositories: the trunk's names, a classifier behind it."""
    source = small()
    state = source.state_dict() | {"classifier.weight": torch.zeros(10, 4)}
    state["incre_modules.0.0.conv1.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "hrnet.pth")
    model = nn.Module()
    model.backbone = build_backbone(hrnet_cfg())
    caplog.set_level("INFO", logger="wsis.modeling")
    assert load_weights(model, str(tmp_path / "hrnet.pth"), strict=True) == []
    assert "weights loaded" in caplog.text
    assert "unexpected" not in caplog.text
    for name, value in source.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)


def test_under_a_feature_pyramid():
    cfg = hrnet_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_hrnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res2", "res3", "res4", "res5"], 8
    found = build_backbone(cfg)(torch.rand(1, 3, 64, 64))
    assert [found[f"p{n}"].shape[-1] for n in range(2, 7)] == [16, 8, 4, 2, 1]


def test_synchronised_norm_is_plain_on_a_cpu():
    cfg = hrnet_cfg()
    cfg.MODEL.HRNET.NORM = "SyncBN"
    model = build_backbone(cfg).train()
    assert torch.isfinite(model(torch.rand(2, 3, 32, 32))["res2"]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modules": (1, 1)}, "MODULES"),
        ({"upsample": "cubic"}, "UPSAMPLE"),
        ({"init": "zero"}, "INIT"),
        ({"out_features": ("res1",)}, "'res1'"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(UsageError, match=words):
        small(**options)
