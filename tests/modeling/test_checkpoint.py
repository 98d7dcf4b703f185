import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from wsis.errors import DataError
from wsis.modeling.checkpoint import load_weights, read_state_dict
from wsis.modeling.weight_names import (
    camnet_from_original,
)

from tests.modeling.test_image_classifier import tiny_camnet_cfg
from tests.modeling.test_mask_rcnn import tiny_cfg


def to_original(state):
    """The inverse of the conversion, written out once more."""
    original = {}
    for name, value in state.items():
        name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        for number in (1, 2, 3):
            name = name.replace(f"conv{number}.norm", f"bn{number}")
        name = name.replace("stem.", "")
        for stage in (2, 3, 4, 5):
            name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
        original[name] = value
    return original


def perturbed(model):
    torch.manual_seed(7)
    return {k: torch.rand(v.shape).to(v.dtype) for k, v in model.state_dict().items()}


@pytest.fixture
def model():
    return build_model(tiny_camnet_cfg())


def test_own_checkpoint(model, tmp_path, caplog):
    state = perturbed(model)
    torch.save({"model": state, "iteration": 3}, tmp_path / "model_final.pth")
    caplog.set_level("INFO", logger="wsis.modeling")
    assert load_weights(model, str(tmp_path / "model_final.pth"), strict=True) == []
    assert "weights loaded" in caplog.text
    assert "unexpected" not in caplog.text
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_torchvision_file_is_recognised(model, tmp_path):
    state = perturbed(model)
    trunk = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone" in k}
    original = to_original(trunk) | {"fc.weight": torch.ones(5, 3)}
    torch.save(OrderedDict(original), tmp_path / "resnet.pth")
    assert load_weights(model, str(tmp_path / "resnet.pth")) == ["classifier.weight"]
    own = model.state_dict()
    assert torch.equal(
        own["backbone.res3.0.shortcut.weight"], state["backbone.res3.0.shortcut.weight"]
    )


def test_original_classifier_is_recognised(model, tmp_path):
    state = perturbed(model)
    original = {
        ("resnet50." + k.removeprefix("backbone.") if k.startswith("backbone.") else k): v
        for k, v in state.items()
    }
    original = {
        "resnet50." + n if n != "classifier.weight" else n: v
        for n, v in to_original(
            {k.removeprefix("resnet50."): v for k, v in original.items()}
        ).items()
    }
    torch.save(original, tmp_path / "res50_cam.pth")
    assert load_weights(model, str(tmp_path / "res50_cam.pth"), strict=True) == []
    assert torch.equal(model.state_dict()["classifier.weight"], state["classifier.weight"])


def test_another_number_of_classes_keeps_its_own_head(model, tmp_path):
    state = perturbed(model) | {"classifier.weight": torch.ones(9, 32, 1, 1)}
    torch.save(state, tmp_path / "w.pth")
    before = model.classifier.weight.detach().clone()
    assert load_weights(model, str(tmp_path / "w.pth")) == ["classifier.weight"]
    assert torch.equal(model.classifier.weight, before)
    with pytest.raises(DataError, match="classifier.weight"):
        load_weights(model, str(tmp_path / "w.pth"), strict=True)


class Evil:
    def __reduce__(self):
        return (print, ("this must not be printed",))


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl"])
def test_code_in_a_file_is_not_run(model, tmp_path, capsys, name):
    with open(tmp_path / name, "wb") as stream:
        pickle.dump({"model": Evil()}, stream)
    with pytest.raises(DataError, match=name):
        load_weights(model, str(tmp_path / name))
    assert "must not" not in capsys.readouterr().out


class Pointers:
    """An array of objects whose data are addresses, which NumPy would follow."""

    def __reduce__(self):
        state = (1, (2,), np.dtype("O"), False, b"\1" * 16)
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state


def test_addresses_in_a_pickle_are_not_followed(model, tmp_path):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Pointers()}))
    with pytest.raises(DataError, match=r"evil\.pkl is no weight file.*unusual"):
        load_weights(model, str(tmp_path / "evil.pkl"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
@pytest.mark.parametrize("name", ["w.pth", "w.pkl"])
def test_damaged_files(model, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load_weights(model, str(tmp_path / name))


def test_missing_and_foreign_files(model, tmp_path):
    with pytest.raises(DataError, match="no weight file"):
        load_weights(model, str(tmp_path / "none.pth"))
    torch.save({"a": torch.ones(2)}, tmp_path / "foreign.pth")
    with pytest.raises(DataError, match=r"foreign.pth does not fit CAMNet"):
        load_weights(model, str(tmp_path / "foreign.pth"))
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(DataError, match="no state dict"):
        read_state_dict(tmp_path / "list.pth")
    with pytest.raises(DataError, match="original IRNet"):
        camnet_from_original({"a": torch.ones(1)})


def test_detectron2_pickle(tmp_path):
    module = nn.Sequential(nn.Linear(2, 1))
    data = {"model": {"0.weight": np.ones((1, 2), np.float32), "0.bias": np.zeros(1, np.float32)}}
    with open(tmp_path / "m.pkl", "wb") as stream:
        pickle.dump(data | {"__author__": "test"}, stream)
    load_weights(module, str(tmp_path / "m.pkl"))
    assert module[0].weight.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_a_detectron2_pickle_that_does_not_fit(tmp_path, shape):
    module = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    data = {k: v.detach().numpy().copy() for k, v in module.named_parameters()}
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"model": data, "__author__": "test"}))
    load_weights(module, str(path), strict=True)  # buffers may be missing
    if shape is None:
        del data["0.weight"]
    else:
        data["0.weight"] = np.ones(shape, np.float32)
    path.write_bytes(pickle.dumps({"model": data, "__author__": "test"}))
    with pytest.raises(DataError, match=r"m.pkl does not fit Sequential: 3 of 7 .* 0.weight miss"):
        load_weights(module, str(path), strict=True)
    load_weights(module, str(path))


# Trunks and heads.


def resnet_cfg(depth):
    cfg = tiny_camnet_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    return cfg


def save(path, state, wrapped=False):
    """A state dict as a file: PyTorch's, or arrays in a pickle, bare or as Detectron2 has them."""
    if path.suffix == ".pkl":
        state = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": state, "__author__": "x"} if wrapped else state))
    else:
        torch.save(state, path)
    return str(path)


def torchvision_names(model):
    """The trunk's perturbed weights in torchvision's names."""
    trunk = {k.removeprefix("backbone."): v for k, v in perturbed(model).items() if "backbone" in k}
    return to_original(trunk)


LAYOUTS = pytest.mark.parametrize(
    ("name", "wrapped"), [("w.pth", False), ("w.pkl", False), ("w.pkl", True)]
)


@LAYOUTS
def test_a_trunk_of_another_depth_is_refused(model, tmp_path, name, wrapped):
    """ResNet-18 has 2 blocks in each stage, ResNet-34 has 3, 4, 6 and 3; up to res4 here."""
    before = perturbed(model)
    model.load_state_dict(before)
    deeper = build_model(resnet_cfg(34))
    path = save(tmp_path / name, torchvision_names(deeper), wrapped)
    with pytest.raises(DataError, match=rf"{name} is of a deeper network, with res2\.2; give"):
        load_weights(model, path)
    assert_same(model.state_dict(), before)
    path = save(tmp_path / name, torchvision_names(model), wrapped)
    # 3 + 4 + 6 blocks instead of 2 + 2 + 2: 7 more, each with two convolutions and their norms
    with pytest.raises(DataError, match=rf"{name}: 70 of 145 backbone weights are missing"):
        load_weights(deeper, path)


@LAYOUTS
def test_torchvision_names_are_known_in_every_file(model, tmp_path, name, wrapped):
    state = perturbed(model)
    path = save(tmp_path / name, torchvision_names(model) | {"fc.bias": torch.ones(4)}, wrapped)
    assert load_weights(model, path) == ["classifier.weight"]
    own = {k: v for k, v in model.state_dict().items() if k != "classifier.weight"}
    assert_same(own, {k: v for k, v in state.items() if k in own})


def test_a_trunk_that_lacks_one_tensor_or_all_is_refused(model, tmp_path):
    state = perturbed(model)
    del state["backbone.res3.0.conv1.norm.running_var"]
    with pytest.raises(DataError, match=r"1 of 75 backbone weights.*first backbone\.res3\.0\.c"):
        load_weights(model, save(tmp_path / "w.pth", state))
    state = {"classifier.weight": state["classifier.weight"]}
    with pytest.raises(DataError, match="75 of 75 backbone weights"):
        load_weights(model, save(tmp_path / "w.pth", state))


def test_deformable_convolutions_start_from_zero(model, tmp_path, caplog):
    """As in Detectron2's own configs with DEFORM_ON_PER_STAGE and ImageNet weights."""
    path = save(tmp_path / "w.pth", perturbed(model))
    model.backbone.res3[0].conv2_offset = torch.nn.Conv2d(1, 18, 3)
    offsets = [f"backbone.res3.0.conv2_offset.{leaf}" for leaf in ("weight", "bias")]
    assert load_weights(model, path) == offsets
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_trunk_that_is_used_in_part_takes_the_whole_file(tmp_path):
    """The file goes on to res5; the network ends with res4."""
    cfg = resnet_cfg(18)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.CAMNET.IN_FEATURE = "res5"
    path = save(tmp_path / "w.pth", torchvision_names(build_model(cfg)))
    assert load_weights(build_model(resnet_cfg(18)), path) == ["classifier.weight"]


def test_statistics_that_caffe2_keeps_in_the_weights(model, tmp_path):
    """MSRA's ResNets in Caffe2's names have no running mean and variance."""
    state = perturbed(model)
    trunk = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone" in k}
    caffe2 = {}
    for name, value in trunk.items():
        if "running" not in name:
            name = re.sub(r"conv(\d)", lambda m: "branch2" + "abc"[int(m[1]) - 1], name)
            name = name.replace("stem.branch2a", "conv1").replace("shortcut", "branch1")
            name = name.replace(".norm.weight", "_bn_s").replace(".norm.bias", "_bn_b")
            name = name.replace(".weight", "_w").replace(".", "_")
            caffe2[name.replace("conv1_bn", "res_conv1_bn")] = value
    assert {
        "conv1_w",
        "res_conv1_bn_b",
        "res3_0_branch2a_w",
        "res3_0_branch1_bn_s",
    } <= caffe2.keys()
    assert load_weights(model, save(tmp_path / "R-18.pkl", caffe2)) == ["classifier.weight"]
    weight = "backbone.res3.0.conv1.weight"
    assert torch.equal(model.state_dict()[weight], state[weight])


@pytest.mark.parametrize("name", ["coco.pth", "coco.pkl"])
def test_other_classes_and_new_heads_are_told_and_parts_of_heads_warned_of(tmp_path, caplog, name):
    cfg = tiny_cfg("build_resnet_fpn_backbone")
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    few = build_model(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    state = perturbed(build_model(cfg))
    predictors = ["box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor"]
    lost = [f"roi_heads.{part}.{leaf}" for part in predictors for leaf in ("weight", "bias")]
    caplog.set_level("INFO", logger="wsis.modeling")

    def said(state, missing):
        caplog.clear()
        assert load_weights(few, save(tmp_path / name, state, True)) == missing
        return {r.levelname: r.getMessage() for r in caplog.records if "initial" in r.getMessage()}

    (told,) = said(state, lost).items()
    assert told[0] == "INFO"
    assert f"another number of classes: {', '.join(lost)} keep" in told[1]
    trunk = {k: v for k, v in state.items() if "bottom_up" in k}
    own = few.state_dict()
    (told,) = said(trunk, [k for k in own if k not in trunk]).items()
    assert told[0] == "INFO"
    assert "has no backbone.fpn_lateral2, backbone.fpn_output2, " in told[1]
    del state["roi_heads.mask_head.mask_fcn1.weight"]
    missing = [k for k in own if k in lost or k == "roi_heads.mask_head.mask_fcn1.weight"]
    warned = said(state, missing)["WARNING"]
    assert "1 of 6 weights of roi_heads.mask_head are missing or of another shape" in warned


def test_a_bare_trunk_finds_its_place_under_a_pyramid(tmp_path):
    cfg = tiny_cfg("build_resnet_fpn_backbone")
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    model = build_model(cfg)
    prefix = "backbone.bottom_up."
    trunk = {k: v for k, v in perturbed(model).items() if k.startswith(prefix)}
    load_weights(
        model, save(tmp_path / "w.pth", {k.removeprefix(prefix): v for k, v in trunk.items()})
    )
    assert_same({k: model.state_dict()[k] for k in trunk}, trunk)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "but list"),
        ({}, "but dict"),
        ({"model": [1]}, "'model' to list"),
        ({"a": 3}, "'a' to int"),
        ({1: np.zeros(2)}, "'1' to Tensor"),
        ({"model": {"a": {"b": np.zeros(2)}}, "__author__": "x"}, "'a' to dict"),
        ({"a": np.array(["text"])}, "'a' to Array"),
        ({"blobs": {"a": None}}, "'a' to NoneType"),
    ],
)
def test_pickles_of_another_layout(model, tmp_path, content, said):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=rf"w\.pkl holds no state dict \(names to .*{said}$"):
        load_weights(model, str(tmp_path / "w.pkl"))


def test_pickles_of_other_numbers(tmp_path):
    """Detectron1's blobs, momentum left out; an array of the other byte order."""
    blobs = {"0.weight": np.array([[1, 2]], ">f4"), "0.weight_momentum": np.zeros((1, 2), "f4")}
    blobs["0.bias"] = np.float64(0.5).reshape(1)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL"}))
    module = nn.Sequential(nn.Linear(2, 1))
    assert load_weights(module, str(tmp_path / "w.pkl"), strict=True) == []
    assert module[0].weight.tolist() == [[1.0, 2.0]]
    assert module[0].bias.tolist() == [0.5]


@pytest.mark.parametrize("place", [0.05, 0.5, 0.9])
def test_flipped_bytes_are_noticed(model, tmp_path, place):
    path = tmp_path / "w.pth"
    torch.save(perturbed(model), path)
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"w\.pth cannot be read.*bytes of its part .* are not"):
        load_weights(model, str(path))
