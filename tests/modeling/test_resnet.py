import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from wsis.config import get_wsis_cfg
from wsis.errors import UsageError
from wsis.modeling.backbones import RunningStatsBatchNorm2d, get_norm


def tiny_cfg(**resnets):
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.RESNETS.NORM = "RunningStatsBN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    for key, value in resnets.items():
        setattr(cfg.MODEL.RESNETS, key, value)
    return cfg


def test_strides_channels_and_sizes():
    cfg = tiny_cfg()
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 1)
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    assert [shapes[n].stride for n in ("stem", "res2", "res3", "res4", "res5")] == [4, 4, 8, 16, 16]
    assert [shapes[n].channels for n in ("stem", "res2", "res5")] == [8, 16, 128]
    features = backbone(torch.randn(1, 3, 65, 97))  # odd sizes: every stage rounds up
    assert [tuple(features[n].shape[-2:]) for n in ("stem", "res3", "res4", "res5")] == [
        (17, 25),
        (9, 13),
        (5, 7),
        (5, 7),
    ]


def test_stride_is_in_the_3x3_and_dilation_keeps_the_size():
    cfg = tiny_cfg()
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 1)
    cfg.MODEL.WSIS_RESNETS.DILATIONS = (1, 1, 1, 2)
    backbone = build_backbone(cfg)
    assert backbone.res3[0].conv1.stride == (1, 1)
    assert backbone.res3[0].conv2.stride == (2, 2)
    assert backbone.res5[0].conv2.dilation == (2, 2)
    assert backbone(torch.randn(1, 3, 64, 64))["res5"].shape[-2:] == (4, 4)


def test_running_stats_norm_ignores_the_batch_but_trains():
    norm = RunningStatsBatchNorm2d(2).train()
    norm.running_mean.copy_(torch.tensor([1.0, 0.0]))
    norm.running_var.copy_(torch.tensor([4.0, 1.0]))
    x = torch.full((1, 2, 1, 2), 5.0)
    y = norm(x)
    assert torch.allclose(y[0, 0], torch.tensor(2.0), atol=1e-4)  # (5 - 1) / 2
    assert torch.allclose(y[0, 1], torch.tensor(5.0), atol=1e-4)
    y.sum().backward()
    assert torch.allclose(norm.bias.grad, torch.tensor([2.0, 2.0]))
    assert norm.running_mean.tolist() == [1.0, 0.0]
    assert int(norm.num_batches_tracked) == 0


def test_freeze_at_stops_gradients_and_keeps_the_rest_trainable():
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    backbone = build_backbone(cfg)
    backbone(torch.randn(1, 3, 33, 33))["res5"].sum().backward()
    with_gradient = {n.split(".")[0] for n, p in backbone.named_parameters() if p.grad is not None}
    assert with_gradient == {"res4", "res5"}
    assert isinstance(backbone.res3[0].conv1.norm, FrozenBatchNorm2d)
    assert backbone.res4[0].conv1.norm.weight.grad is not None


@pytest.mark.parametrize("depth", [18, 50])
def test_same_network_as_torchvision(depth):
    from wsis.modeling.weight_names import torchvision_resnet_to_detectron2

    cfg = get_wsis_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    ours.load_state_dict(torchvision_resnet_to_detectron2(reference.state_dict()))
    x = torch.randn(1, 3, 61, 50)
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(reference.children())[:-2])(x)
        actual = ours(x)["res5"]
    assert torch.allclose(actual, expected, atol=1e-5 * float(expected.abs().max()))


def test_feature_pyramid():
    cfg = tiny_cfg(OUT_FEATURES=["res2", "res3", "res4", "res5"])
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    backbone = build_backbone(cfg)
    features = backbone(torch.randn(1, 3, 64, 96))
    assert {n: tuple(f.shape[-2:]) for n, f in features.items()}["p6"] == (1, 2)
    assert backbone.output_shape()["p2"].stride == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("DEPTH", 19), ("RES5_DILATION", 2)],
)
def test_impossible_networks_are_refused(key, value):
    with pytest.raises(UsageError, match=str(value)):
        build_backbone(tiny_cfg(**{key: value}))


def test_basic_blocks_have_no_dilation():
    cfg = tiny_cfg(DEPTH=18, RES2_OUT_CHANNELS=8)
    cfg.MODEL.WSIS_RESNETS.DILATIONS = (1, 1, 1, 2)
    with pytest.raises(UsageError, match="dilations"):
        build_backbone(cfg)


def test_norm_names():
    assert get_norm("FrozenBN") == "FrozenBN"
    with pytest.raises(ValueError, match="RunningStatsBN"):
        get_norm("BatchNorm3000")
