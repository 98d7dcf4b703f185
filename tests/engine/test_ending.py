"""The last lines of a run."""

from __future__ import annotations

import json
import logging
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from wsis.engine.ending import tell_ending
from wsis.engine.pipeline import load_pipeline
from wsis.evaluation.results import stage_result

from tests.tiny import PIPELINE, ROOT

NAMES = ("classifier", "cam", "instances", "pseudo_labels", "mask_rcnn")


def measured(stage, protocol, dataset="shapes_train", **metrics):
    return stage_result(stage, dataset, protocol, metrics)


FIGURES = [
    measured("classifier", "classification", "shapes_val", mAP=98.5),
    measured("cam", "semantic, CAM > 0.15", mIoU=60.0),
    measured("cam", "voc, baseline CAM > 0.15", AP50=12.0),
    measured("cam", "voc, baseline CAM > 0.4", AP50=30.5),
    measured("inter_pixel_label", "inter-pixel label", unknown=5.0),
    measured("instances", "voc", AP25=80.0, AP50=68.25),
    measured("instances", "coco", AP=40.0, AP50=69.0),
    measured("instances", "quality, score > 0", mIoU=71.0, precision50=50.0),
    measured("mask_rcnn", "voc", "shapes_val", AP50=90.5),
    measured("mask_rcnn", "coco", "shapes_val", AP=55.0, AP50=91.0),
    measured("mask_rcnn", "coco_bbox", "shapes_val", AP=57.0),
]
TABLE = """\
stage       data set      protocol            metric      per cent  best baseline
----------  ------------  ------------------  --------  ----------  ----------------
classifier  shapes_val    classification      mAP            98.50
instances   shapes_train  voc                 AP50           68.25  30.50  CAM > 0.4
instances   shapes_train  quality, score > 0  mIoU           71.00
mask_rcnn   shapes_val    voc                 AP50           90.50
mask_rcnn   shapes_val    coco                AP             55.00
"""


@pytest.fixture
def tell(tmp_path, monkeypatch, caplog):
    """What is said of a run below the present folder, whose products are there."""
    monkeypatch.chdir(tmp_path)
    whole = load_pipeline(PIPELINE, ["OUTPUT_DIR", str(tmp_path / "out")])
    for planned in whole.stages:
        planned.folder.mkdir(parents=True)
        for name in ("model_final.pth", "pseudo_labels.json"):
            (planned.folder / name).touch()
    (tmp_path / "out" / "metrics.json").touch()

    def said(figures, done=None, pipeline=whole, **options):
        names = [planned.name for planned in pipeline.stages]
        caplog.clear()
        with caplog.at_level(logging.INFO):
            options = {"shown": names, "words": ["my.yaml", "OUTPUT_DIR", "out"]} | options
            tell_ending(pipeline, figures, done=names if done is None else done, **options)
        return "".join(f"{line.rstrip()}\n" for line in caplog.text.splitlines())

    return said


def test_few_figures_places_and_the_next_commands(tell):
    text = tell(FIGURES)
    assert TABLE in text
    for words in (
        "labels       out/7_pseudo_labels/pseudo_labels.json\n",
        "weights      out/8_mask_rcnn/model_final.pth\n",
        "all figures  out/metrics.json\n",
        "next         python tools/report.py out\n",
        "python tools/export.py out/7_pseudo_labels/pseudo_labels.json --format coco-polygons "
        "--output out/labels.json\n",
        "python tools/demo.py --config-file my.yaml --input PHOTOGRAPHS --output out/found "
        "OUTPUT_DIR out\n",
    ):
        assert words in text
    assert "train_net.py" not in text
    assert "do not beat" not in text


def test_a_part_of_a_run_goes_on(tell, monkeypatch):
    text = tell(FIGURES, done=["classifier", "cam"], shown=["cam"])
    assert "per cent" not in text  # the baseline alone is no figure that a person came for
    assert "python train_net.py --config-file my.yaml OUTPUT_DIR out\n" in text
    assert "demo.py" not in text
    monkeypatch.setattr("wsis.engine.ending.same_processes", lambda device: ["torchrun"])
    text = tell(FIGURES, done=["classifier", "cam"], shown=["cam"])
    assert "torchrun --config-file my.yaml OUTPUT_DIR out\n" in text
    text = tell(FIGURES, done=["cam", "instances"], shown=["instances"])
    assert "68.25  30.50  CAM > 0.4" in text
    assert "classifier" not in text.partition("all figures")[0].partition("stage")[2]


def test_masks_that_lose_are_told_after_the_table(tell):
    worse = [measured("instances", "voc", AP50=20.0) if e is FIGURES[5] else e for e in FIGURES]
    text = tell(worse)
    assert text.index("do not beat their baseline: AP50 20.0") > text.index("tools/report.py")


def test_where_nothing_could_be_measured_one_line_says_so(tell):
    text = tell(FIGURES[:1])
    assert (
        "no true masks to measure against: cam, inter_pixel_label, instances on shapes_train; "
        "mask_rcnn on shapes_val\n" in text
    )
    assert " - " not in text.partition("mAP")[2].partition("weights")[0]


def test_images_without_masks_are_told_once_for_a_data_set(tell):
    counts = {"images": 5, "images_without_ground_truth": 3}
    some = [measured(stage, "voc", AP50=1.0, **counts) for stage in ("cam", "instances")]
    text = tell(some)
    assert text.count("no true masks: 3 of 8 images of shapes_train\n") == 1
    assert "no true masks" not in tell(FIGURES)


def test_another_checkpoint_stands_beside_the_own_one(tell):
    other = FIGURES[-2] | {"weights": {"file": "other.pth", "digest": "ab"}}
    text = tell([*FIGURES, other], done=(), shown=["mask_rcnn"], others=[other])
    assert "mask_rcnn, weights other.pth" in text
    assert "90.50" in text
    assert "other.pth" not in tell([*FIGURES, other])


def test_boxes_alone_and_box_masks_have_a_line(tell):
    boxes = [measured("mask_rcnn", "coco_bbox", "shapes_val", AP=57.0)]
    assert re.search(r"shapes_val +coco_bbox +AP +57.00\n", tell(boxes))
    filled = [
        measured("instances", "box masks", mIoU=70.0),
        measured("instances", "baseline filled box", mIoU=59.0),
    ]
    assert re.search(r"box masks +mIoU +70.00 +59.00  filled box\n", tell(filled))


@pytest.mark.parametrize(
    ("name", "proposed"), [("irnet", False), ("boxcaseg", True), ("cim_shapes_point", True)]
)
def test_boxes_and_points_of_a_coco_file_get_masks(tell, tmp_path, name, proposed):
    path = tmp_path / "my images" / "labels.json"
    path.parent.mkdir()
    Image.new("RGB", (20, 20)).save(path.parent / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 20}]
    found = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 8], "point": [5, 5]}]
    content = {"images": images, "categories": [{"id": 1, "name": "bird"}], "annotations": found}
    path.write_text(json.dumps(content))
    stem = name if "_" in name else f"{name}_shapes"
    words = ["OUTPUT_DIR", str(tmp_path / "out"), "DATA.TRAIN", str(path)]
    pipeline = load_pipeline(ROOT / "configs" / f"{stem}.yaml", words)
    text = tell(FIGURES, pipeline=pipeline)
    merge = " --merge 'my images/labels.json'" if proposed else ""
    assert f"--format coco-polygons{merge} --output out/labels.json\n" in text
    labels = f"out/{pipeline.stages[-2].folder.name}/pseudo_labels.json"
    measure = f"tools/evaluate.py --predictions {labels} --dataset CORRECTED_MASKS\n"
    assert measure in text  # what the figures are of is not this data set
    (name,) = pipeline.stages[-2].cfg.WSIS.IMAGES
    assert measure not in tell([measured("instances", "voc", name, AP50=1.0)], pipeline=pipeline)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(f"{stem}_train")


def test_labels_of_labelme_go_back_to_it(tell, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    point = {"label": "bird", "points": [[5, 5]], "shape_type": "point", "group_id": None}
    content = {"imagePath": "a.png", "imageHeight": 20, "imageWidth": 20, "shapes": [point]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    words = ["OUTPUT_DIR", str(tmp_path / "out"), "DATA.TRAIN", str(tmp_path)]
    pipeline = load_pipeline(ROOT / "configs" / "points_photos.yaml", words)
    text = tell([], pipeline=pipeline)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("points_photos_train")
    labels = "out/2_pseudo_labels/pseudo_labels.json"
    assert f"tools/export.py {labels} --format labelme --output out/labelme\n" in text
    assert f"tools/evaluate.py --predictions {labels} --dataset CORRECTED_MASKS\n" in text
