import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from wsis.modeling.checkpoint import load_weights

from tests.modeling.test_checkpoint import perturbed, to_original
from tests.modeling.test_image_classifier import tiny_camnet_cfg

PATH = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def main():
    specification = importlib.util.spec_from_file_location("convert_checkpoint", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


def test_classifier_of_the_original(main, tmp_path, capsys, caplog):
    model = build_model(tiny_camnet_cfg())
    state = perturbed(model)
    trunk = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone" in k}
    original = {f"resnet50.{k}": v for k, v in to_original(trunk).items()}
    original["classifier.weight"] = state["classifier.weight"]
    original["newly_added.0.weight"] = state["classifier.weight"]
    torch.save(original, tmp_path / "res50_cam.pth")
    output = tmp_path / "new" / "cam.pth"
    arguments = ["--method", "irnet", "--input", str(tmp_path / "res50_cam.pth")]
    assert main([*arguments, "--output", str(output)]) == 0
    assert "cam.pth" in capsys.readouterr().out
    caplog.set_level("INFO", logger="wsis.modeling")
    assert load_weights(model, str(output), strict=True) == []
    assert "weights loaded" in caplog.text
    assert "unexpected" not in caplog.text
    assert torch.equal(model.classifier.weight, state["classifier.weight"])


METHODS = ["boxcaseg", "cim", "iam", "irnet", "prm", "torchvision-resnet"]


@pytest.mark.parametrize("method", METHODS)
def test_foreign_files_are_refused(main, tmp_path, capsys, method):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    output = tmp_path / "y.pth"
    for name in ("x.pth", "absent.pth"):
        arguments = ["--method", method, "--input", str(tmp_path / name), "--output", str(output)]
        assert main(arguments) != 0
        assert name in capsys.readouterr().err
    assert not output.exists()


def test_both_files_of_simple_iam(main, tmp_path):
    from wsis.methods.iam.filling_network import FillingNetwork

    filling = {
        "feature_pyramid.toplayer.bias": torch.ones(256),
        "decode.decode3.1.weight": torch.ones(1),
    }
    classifier = {"0.classifier.0.weight": torch.ones(2, 8, 1, 1)}
    classifier["0.res_block1.0.weight"] = torch.ones(4, 3, 7, 7)
    paths = [tmp_path / "model_prm_latest.pth.tar", tmp_path / "model_filling_latest.pth.tar"]
    for path, state in zip(paths, (classifier, filling), strict=True):
        torch.save({"arch": "iam", "epoch": 3, "lr": 0.1, "state_dict": state, "error": 0.5}, path)
    output = tmp_path / "iam.pth"
    arguments = ["--method", "iam", "--input", *map(str, paths), "--output", str(output)]
    assert main(arguments) == 0
    found = torch.load(output, weights_only=True)["model"]
    assert set(found) == {
        "peak_classifier.classifier.weight",
        "peak_classifier.backbone.stem.conv1.weight",
        "filling.pyramid.top.bias",
        "filling.decoder.2.norm.weight",
    }
    own = FillingNetwork((256, 512, 1024)).state_dict()
    assert {n.removeprefix("filling.") for n in found if n.startswith("filling")} <= set(own)


def test_half_of_a_checkpoint_of_ours(main, tmp_path):
    """Kernels are halved, statistics beyond the range of half precision are kept; nothing else."""
    state = {
        "conv.weight": torch.tensor([[[[1.0 / 3]]]]),
        "norm.running_var": torch.tensor([1e6, 1e-9]),
        "norm.num_batches_tracked": torch.tensor(7),
    }
    path, output = tmp_path / "model_final.pth", tmp_path / "half.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 9}, path)
    arguments = ["--method", "wsis", "--input", str(path), "--output", str(output)]
    assert main([*arguments, "--half"]) == 0
    stored = torch.load(output, weights_only=True)
    assert stored.keys() == {"model"}
    assert stored["model"]["conv.weight"].dtype == torch.float16
    for name in ("norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(stored["model"][name], state[name])
        assert stored["model"][name].dtype == state[name].dtype
    assert main(arguments) == 0
    whole = torch.load(output, weights_only=True)["model"]
    assert all(torch.equal(whole[name], value) for name, value in state.items())


@pytest.mark.parametrize("value", [7e4, float("nan"), float("inf")])
def test_what_half_precision_cannot_hold_is_refused(main, tmp_path, capsys, value):
    path, output = tmp_path / "model_final.pth", tmp_path / "half.pth"
    torch.save({"model": {"conv.weight": torch.tensor([[value]])}}, path)
    arguments = ["--method", "wsis", "--half", "--input", str(path), "--output", str(output)]
    assert main(arguments) == 1
    assert "conv.weight has values up to" in capsys.readouterr().err
    assert not output.exists()
