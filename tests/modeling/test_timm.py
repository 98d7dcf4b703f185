import os
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone
from safetensors.torch import save_file
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.errors import DataError, UsageError
from wsis.modeling.backbones import TimmBackbone
from wsis.modeling.backbones.timm import create_body
from wsis.modeling.checkpoint import load_weights

SWIN = "swin_tiny_patch4_window7_224"
# In torchvision's MobileNetV2 and in timm's: what WSIS's methods take.
BLOCKS = {"res1": 1, "res2": 3, "res3": 6, "res4": 13, "blocks.5": 16, "final": 18}


def cfg_of(name="mobilenetv2_100", freeze_at=0, **keys):
    cfg = get_wsis_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.TIMM.NAME = name
    for key, value in keys.items():
        setattr(cfg.MODEL.TIMM, key, value)
    return cfg


def norms_of(backbone):
    return {n: m for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("mobilenetv2_100", 5),
        ("resnet18", 5),
        ("efficientnet_b0", 5),
        ("convnext_atto", 4),
        ("hrnet_w18_small", 5),
        (SWIN, 4),
    ],
)
def test_stated_shapes_are_true(name, levels):
    """Also of networks with maps in channels-last order, and of those that want whole cells."""
    backbone = build_backbone(cfg_of(name))
    assert list(backbone.output_shape()) == [f"res{k}" for k in range(6 - levels, 6)]
    features = backbone(torch.randn(1, 3, 129, 97))
    for key, spec in backbone.output_shape().items():
        assert spec.stride == 2 ** int(key[3:])
        assert features[key].shape[1] == spec.channels
        for side, length in zip((129, 97), features[key].shape[-2:], strict=True):
            assert side / spec.stride - 1 <= length <= side / spec.stride + 32 / spec.stride


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """torchvision's network with statistics that are not those of a new one, and its file."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    for norm in norms_of(model).values():
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(model.state_dict(), path)
    return model, path


def maps_of(model, x):
    """torchvision's maps at `BLOCKS`."""
    found = {}
    for k, layer in enumerate(model.features):
        x = layer(x)
        found |= {name: x for name, place in BLOCKS.items() if place == k}
    return found


def real_weights():
    path = Path(os.environ.get("WSIS_DATA", "../shared/data"), "weights/mobilenet_v2_tf2_ptq.pth")
    if not path.is_file():
        pytest.skip(f"no {path}; set WSIS_DATA")
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model, path


def dilate(model, stride):
    """torchvision's MobileNetV2, its strides beyond ``stride`` turned into dilations by hand."""
    now = 2
    for block in model.features[1:18]:
        deep = block.conv[-3][0]
        if now >= stride and deep.stride == (2, 2):
            deep.stride = (1, 1)
            deep.dilation = deep.padding = (now // stride,) * 2
            now *= 2
        elif now > stride:
            deep.dilation = deep.padding = (now // stride,) * 2
        elif deep.stride == (2, 2):
            now *= 2


@pytest.mark.parametrize("stride", [0, 16, 8])
@pytest.mark.parametrize("real", [False, True])
@torch.no_grad()
def test_torchvision_weights_give_torchvision_maps(mobilenet, real, stride):
    model, path = real_weights() if real else mobilenet
    keys = {"WEIGHTS": str(path), "OUTPUT_STRIDE": stride, "OUT_FEATURES": list(BLOCKS)}
    backbone = build_backbone(cfg_of(**keys)).train()
    if stride:
        model = torchvision.models.mobilenet_v2(weights=None).eval()
        model.load_state_dict(torch.load(path, weights_only=True))
        dilate(model, stride)
    x = torch.rand(1, 3, 97, 161) * 2 - 1
    expected, found = maps_of(model, x), backbone(x)
    for name in BLOCKS:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    strides = [spec.stride for spec in backbone.output_shape().values()]
    assert strides == [min(one, stride or 32) for one in (2, 4, 8, 16, 32, 32)]


@pytest.mark.parametrize("way", ["bare", "backbone.body.", "run"])
def test_a_whole_model_takes_torchvision_names(mobilenet, tmp_path, way):
    source, path = mobilenet
    model = nn.Module()
    model.backbone = build_backbone(cfg_of(OUT_FEATURES=["final"]))
    if way != "bare":
        prefix = "backbone.body." if way == "run" else way
        state = {prefix + name: value for name, value in source.state_dict().items()}
        path = tmp_path / "run.pth"
        torch.save({"model": state}, path)
    assert load_weights(model, str(path), strict=True) == []
    weight = model.backbone.body.blocks[1][1].conv_pwl.weight
    assert torch.equal(weight, source.features[3].conv[2].weight)


@torch.no_grad()
def test_resnet_and_vgg_of_torchvision(tmp_path):
    model = torchvision.models.resnet18(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "r.pth")
    x = torch.rand(1, 3, 65, 97)
    found = build_backbone(cfg_of("resnet18", WEIGHTS=str(tmp_path / "r.pth")))(x)["res5"]
    expected = nn.Sequential(*list(model.children())[:-2])(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    model = torchvision.models.vgg11(weights=None, num_classes=1).eval()
    torch.save(model.state_dict(), tmp_path / "v.pth")
    keys = {"WEIGHTS": str(tmp_path / "v.pth"), "OUT_FEATURES": ["res2", "res4"]}
    backbone = build_backbone(cfg_of("vgg11", **keys))
    found = backbone(x)
    torch.testing.assert_close(found["res2"], model.features[:10](x))
    torch.testing.assert_close(found["res4"], model.features[:20](x))


@torch.no_grad()
def test_vgg_of_stride_8():
    """CIM's: no pooling behind stride 8, the last stage dilated."""
    keys = {"OUTPUT_STRIDE": 8, "OUT_FEATURES": ["res3", "res4"]}
    backbone = build_backbone(cfg_of("vgg11", freeze_at=1, **keys))
    found = backbone(torch.rand(2, 3, 40, 56))
    assert found["res3"].shape == found["res4"].shape == (2, 512, 5, 7)
    assert backbone.output_shape()["res4"].stride == 8
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convolutions] == [1] * 6 + [2] * 2
    assert [m.weight.requires_grad for m in convolutions] == [False] * 2 + [True] * 6
    assert backbone.first_cell(56, 8) == 3.5
    assert backbone(torch.rand(1, 3, 3, 50))["res4"].shape[-2:] == (1, 6)  # narrow pictures, too


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "vgg11"])
def test_strides_without_dilation(name):
    backbone = build_backbone(cfg_of(name, OUTPUT_STRIDE=8, DILATE=False))
    found = backbone(torch.rand(1, 3, 64, 96))
    assert found["res3"].shape[-2:] == found["res4"].shape[-2:] == (8, 12)
    assert {m.dilation for m in backbone.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


@torch.no_grad()
def test_the_whole_hrnet_gathers_its_branches():
    """CIM's trunk: one map of stride 32, batch norm on fixed statistics, the front frozen."""
    frozen = ["conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "stage2"]
    keys = {"OUT_FEATURES": ["final"], "NORM": "RunningStatsBN", "FROZEN": frozen}
    trunk = build_backbone(cfg_of("hrnet_w18_small", **keys))
    spec = trunk.output_shape()["final"]
    assert (spec.channels, spec.stride) == (2048, 32)
    picture = torch.rand(2, 3, 33, 64)
    found = trunk.train()(picture)["final"]
    assert found.shape == (2, 2048, 2, 2)
    assert torch.equal(found, trunk.eval()(picture)["final"])
    training = {n.split(".")[1] for n, p in trunk.named_parameters() if p.requires_grad}
    assert {"transition2", "stage3", "stage4", "incre_modules", "final_layer"} <= training
    assert not training & set(frozen)


def test_freezing_and_norms():
    backbone = build_backbone(cfg_of(freeze_at=2, NORM="RunningStatsBN")).train()
    before = {name: norm.running_mean.clone() for name, norm in norms_of(backbone).items()}
    backbone(torch.randn(1, 3, 33, 33))["res5"].sum().backward()
    trained = {n.split(".")[2] for n, p in backbone.named_parameters() if p.grad is not None}
    assert trained == {"2", "3", "4", "5", "6"}  # blocks
    assert any("bn" in n for n, p in backbone.named_parameters() if p.grad is not None)
    for name, norm in norms_of(backbone).items():
        assert torch.equal(norm.running_mean, before[name])


def test_all_norms_frozen_by_default():
    backbone = build_backbone(cfg_of()).train()
    assert not any(norm.training for norm in norms_of(backbone).values())
    for module in backbone.modules():
        for parameter in module.parameters(recurse=False):
            assert parameter.requires_grad != isinstance(module, nn.BatchNorm2d)


def test_plain_batch_norm_counts_behind_what_is_frozen():
    backbone = build_backbone(cfg_of("resnet18", freeze_at=2, NORM="BN")).train()
    training = {name: norm.training for name, norm in norms_of(backbone).items()}
    assert not training["body.layer1.0.bn1"]
    assert training["body.layer2.0.bn1"]
    assert not any(norm.training for norm in norms_of(backbone.eval()).values())


@pytest.mark.parametrize("feature", ["res5", "final"])
def test_a_frozen_last_map_freezes_all(feature):
    backbone = build_backbone(cfg_of(freeze_at=5, OUT_FEATURES=[["res5", feature]], NORM="BN"))
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(norm.training for norm in norms_of(backbone.train()).values())


def test_features_by_name_and_what_follows_is_cut():
    keys = {"OUT_FEATURES": ["res3", ["low", "res2"], "blocks.5"]}
    backbone = build_backbone(cfg_of(**keys))
    found = backbone(torch.rand(1, 3, 64, 64))
    assert list(found) == list(backbone.output_shape()) == ["res3", "low", "blocks.5"]
    assert [found[name].shape[1] for name in found] == [32, 24, 160]
    assert not any("conv_head" in name for name in backbone.state_dict())
    # block 6 is needed by nothing, and would have no gradient
    idle = {n for n, p in backbone.named_parameters() if not p.requires_grad and "bn" not in n}
    assert {n.split(".")[2] for n in idle} == {"6"}
    backbone = build_backbone(cfg_of(OUT_FEATURES=["res3"]))
    assert len(backbone.body.blocks) == 3


def test_swin_final_is_channels_first():
    backbone = build_backbone(cfg_of(SWIN, OUT_FEATURES=["res5", "final"]))
    found = backbone(torch.rand(1, 3, 50, 97))
    assert found["final"].shape == found["res5"].shape == (1, 768, 2, 4)


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("no_net", {}, "no_net"),
        ("vit_tiny_patch16_224", {}, "VisionTransformer is no trunk.*pyramid"),
        ("vit_tiny_patch16_224", {"OUTPUT_STRIDE": 16}, "not take MODEL.TIMM.OUTPUT_STRIDE 16"),
        (SWIN, {"OUTPUT_STRIDE": 16}, "not take MODEL.TIMM.OUTPUT_STRIDE 16"),
        (SWIN, {"OUT_FEATURES": [["res5", "layers.3"]]}, "res5 is .* no map"),
        ("hrnet_w18_small", {"OUTPUT_STRIDE": 16}, "not take MODEL.TIMM.OUTPUT_STRIDE 16"),
        ("resnet18", {"OUT_FEATURES": ["layer9"]}, "layer9.*maps are res1"),
        ("resnet18", {"FROZEN": ["layer9"]}, "layer9"),
        ("resnet18", {"NORM": "nonsense"}, "NORM"),
    ],
)
def test_what_is_no_trunk_is_refused(name, keys, said):
    with pytest.raises(UsageError, match=said):
        build_backbone(cfg_of(name, **keys))


def test_wrong_weights_are_refused(mobilenet, tmp_path):
    _, path = mobilenet
    with pytest.raises(DataError, match=r"resnet18.*conv1\.weight.*MODEL\.TIMM\.NAME"):
        build_backbone(cfg_of("resnet18", WEIGHTS=str(path)))
    for name in ("t.pth", "t.safetensors"):
        (tmp_path / name).write_bytes(b"PK no, not that")
        with pytest.raises(DataError, match=name):
            build_backbone(cfg_of(WEIGHTS=str(tmp_path / name)))
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(DataError, match=name):
            build_backbone(cfg_of(WEIGHTS=str(tmp_path / name)))


def test_files_of_timm(tmp_path):
    body = create_body("mobilenetv2_100")
    state = body.state_dict() | {"classifier.weight": torch.zeros(1000, 1280)}
    save_file(state, tmp_path / "w.safetensors")
    backbone = build_backbone(cfg_of(WEIGHTS=str(tmp_path / "w.safetensors")))
    assert torch.equal(backbone.body.blocks[6][0].bn3.weight, body.blocks[6][0].bn3.weight)
    assert torch.equal(backbone.body.conv_stem.weight, body.conv_stem.weight)


def test_no_download_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cfg = cfg_of(PRETRAINED=True)
    with pytest.raises(
        DataError, match=r"PRETRAINED.*mobilenetv2_100.*MODEL\.TIMM\.WEIGHTS"
    ) as error:
        build_backbone(cfg)
    assert "\n" not in str(error.value)
    cfg.MODEL.WEIGHTS = "trained.pth"  # which brings the trunk
    build_backbone(cfg)


def test_feature_pyramid():
    cfg = cfg_of()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    features = build_backbone(cfg)(torch.randn(1, 3, 64, 96))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]


def test_random_values_are_told_unless_weights_follow(caplog):
    caplog.set_level("INFO", logger="wsis.modeling")
    cfg = cfg_of("resnet18")
    cfg.MODEL.WEIGHTS = "trained.pth"
    build_backbone(cfg)
    assert not caplog.messages
    cfg.MODEL.WEIGHTS = ""
    build_backbone(cfg)
    assert "resnet18 starts from random values" in caplog.text


@pytest.mark.parametrize(
    ("side", "keys"),
    [(1409, {}), (1408, {"OUTPUT_STRIDE": 16}), (1390, {"OUTPUT_STRIDE": 8, "DILATE": False})],
)
def test_first_cell_with_padding_of_tensorflow(side, keys):
    """What a cell in the middle sees lies around the pixel that `first_cell` gives."""
    torch.manual_seed(0)
    names = ["res1", "res2", "res3", "res4", "final"]
    backbone = build_backbone(cfg_of("tf_efficientnet_lite0", OUT_FEATURES=names, **keys)).eval()
    strip = torch.rand(1, 3, 17, side).requires_grad_()
    for name, maps in backbone(strip).items():
        stride, cell = backbone.output_shape()[name].stride, maps.shape[3] // 2
        (seen,) = torch.autograd.grad(maps[..., cell].abs().sum(), strip, retain_graph=True)
        places = seen.abs().sum(dim=(0, 1, 2)).nonzero()
        assert 0 < places.min() <= places.max() < side - 1
        middle = cell * stride + backbone.first_cell(side, stride)
        assert float(places.min() + places.max()) / 2 == middle
        assert middle == cell * stride or side % 32 != 1


def test_a_module_without_a_network_of_timm_is_refused():
    with pytest.raises(UsageError, match="Sequential is no trunk"):
        TimmBackbone(nn.Sequential(nn.Conv2d(3, 4, 3)))
