"""The configs that README.md and datasets/README.md print are pipelines."""

import re
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from wsis.engine.pipeline import load_pipeline

from tests.tiny import ROOT

POINTS, NETWORK, ROLES, *_ = (
    text
    for page in ("README.md", "datasets/README.md")
    for text in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
)
BOXES = f"_BASE_: configs/boxcaseg_photos.yaml\n{ROLES}"


@pytest.fixture
def birds(shapes_root, tmp_path, monkeypatch):
    """A folder with images of the user's own, in which the command is run."""
    shapes = shapes_root / "shapes"
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "images").symlink_to(shapes / "JPEGImages")
    (tmp_path / "things").symlink_to(shapes / "salient")
    (tmp_path / "birds_voc").symlink_to(shapes)
    for name, source in (
        ("points", "points_train"),
        ("boxes", "boxes_train"),
        ("val", "instances_val"),
    ):
        shutil.copyfile(shapes / f"{source}.json", tmp_path / "birds" / f"{name}.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", [POINTS, BOXES], ids=["points", "boxes"])
def test_own_images(text, birds):
    path = birds / "mine.yaml"
    path.write_text(text)
    pipeline = load_pipeline(path, ())
    assert pipeline.stages[-1].name == "mask_rcnn"
    for planned in pipeline.stages:
        assert planned.sources.keys() >= set(planned.stage.consumes)
    names = {name for planned in pipeline.stages for name in planned.cfg.DATASETS.TRAIN}
    records = [record for name in sorted(names) for record in DatasetCatalog.get(name)]
    assert all((birds / record["file_name"]).is_file() for record in records)
    assert pipeline.stages[-1].cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4


def test_another_network(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(NETWORK)
    cfg = load_pipeline(path, ()).stages[-1].cfg
    assert cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 20
    assert cfg.SOLVER.MAX_ITER == 18000
    assert list(cfg.DATASETS.TRAIN) == ["voc_2012_trainaug_instance"]


def test_a_trunk_of_your_own(tmp_path, monkeypatch):
    """docs/backbones_and_memory.md prints the file and the config."""
    page = (ROOT / "docs" / "backbones_and_memory.md").read_text()
    (code,), (text, _) = (
        re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "yaml")
    )
    (tmp_path / "my_trunk.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    pipeline = load_pipeline("mine.yaml", ["MODEL.DEVICE", "cpu"])
    assert len(pipeline.stages) == 8
    for planned in pipeline.stages[:2]:
        assert planned.cfg.MODEL.BACKBONE.NAME == "MyTrunk"
    maps = build_model(pipeline.stages[0].cfg).backbone(torch.zeros(1, 3, 64, 96))
    assert maps["res5"].shape == (1, 32, 4, 6)
