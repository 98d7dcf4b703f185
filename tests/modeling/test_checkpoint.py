import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from wsis.errors import DataError
from wsis.modeling.checkpoint import (
    camnet_from_original,
    load_weights,
    read_state_dict,
    torchvision_resnet_name,
    torchvision_resnet_to_detectron2,
)

from tests.modeling.test_image_classifier import tiny_camnet_cfg


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
    with pytest.raises(DataError, match=r"m.pkl does not fit Sequential: 0.weight is missing"):
        load_weights(module, str(path), strict=True)
    load_weights(module, str(path))
