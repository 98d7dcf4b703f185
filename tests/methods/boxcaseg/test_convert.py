import pytest
import torch
from detectron2.modeling import build_model
from wsis.errors import DataError
from wsis.methods.boxcaseg.convert import boxcaseg_name, convert_boxcaseg
from wsis.modeling.checkpoint import load_weights

from tests.modeling.test_registry import boxcaseg


def original_names(state):
    """Our state dict under the original's names."""
    renamed = {
        "roi_heads.weak.": "last_layer.",
        "roi_heads.full.own.": "fcn.",
        "roi_heads.full.transfer_norm.": "transfer_bn.",
        "roi_heads.full.": "",
        "backbone.": "",
    }
    found = {}
    for name, value in state.items():
        ours = next(prefix for prefix in renamed if name.startswith(prefix))
        found["model." + renamed[ours] + name.removeprefix(ours)] = value
    return found


def test_every_name_there_and_back(tmp_path):
    cfg, *_ = boxcaseg()
    model = build_model(cfg)
    state = model.state_dict()
    original = original_names(state)
    converted = convert_boxcaseg(original)
    assert converted.keys() == state.keys()
    assert all(boxcaseg_name(name.removeprefix("model.")) in state for name in original)
    torch.save({"model": converted}, tmp_path / "converted.pth")
    assert load_weights(build_model(cfg), str(tmp_path / "converted.pth"), strict=True) == []


def test_the_imagenet_file_becomes_a_trunk():
    cfg, *_ = boxcaseg()
    trunk = build_model(cfg).backbone.state_dict()
    converted = convert_boxcaseg(trunk | {"classifier.bias": torch.zeros(3)})
    assert converted.keys() == {"backbone." + name for name in trunk}


def test_something_else():
    with pytest.raises(DataError, match=r"not BoxCaseg's weights: expected .* got conv1\.weight"):
        convert_boxcaseg({"conv1.weight": torch.zeros(1)})
