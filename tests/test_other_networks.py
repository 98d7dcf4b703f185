"""Any Detectron2 model learns from pseudo labels in the last stage, by its config alone."""

import json
import re
import shutil

import pytest
import yaml

from tests.tiny import ROOT, train_net_here

SMALL = """
    MODEL:
      WEIGHTS: ""
      MASK_ON: {masks}
      RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: BN}}
      BACKBONE: {{FREEZE_AT: 0}}
      FPN: {{OUT_CHANNELS: 16}}
      ROI_BOX_HEAD: {{FC_DIM: 32}}
{more}
    INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64, MAX_SIZE_TRAIN: 96, MAX_SIZE_TEST: 96}}
"""
MASKS = "      ROI_MASK_HEAD: {CONV_DIM: 16, NUM_CONV: 1}"
POINTS = """
      ROI_MASK_HEAD: {{NAME: PointRendMaskHead, FC_DIM: 32, NUM_FC: 1, OUTPUT_SIDE_RESOLUTION: 7,
        IN_FEATURES: [p2], POINT_HEAD_ON: true, POOLER_TYPE: "", CONV_DIM: 16}}
      POINT_HEAD: {FC_DIM: 16, IN_FEATURES: [p2], NUM_FC: 1, TRAIN_NUM_POINTS: 16,
        SUBDIVISION_STEPS: 2, SUBDIVISION_NUM_POINTS: 16, COARSE_SEM_SEG_HEAD_NAME: ""}
""".replace("{{", "{").replace("}}", "}")
NETWORKS = {
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", True, MASKS),
    "pointrend": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", True, POINTS),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", False, MASKS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_stage(name, tiny_run, shapes_root, tmp_path):
    output = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(output / "8_mask_rcnn")
    base, masks, more = NETWORKS[name]
    path = tmp_path / "other.yaml"
    path.write_text(
        f"_BASE_: {ROOT}/configs/irnet_shapes.yaml\n"
        "WSIS: {IMPORTS: ['detectron2.projects.point_rend:add_pointrend_config']}\n"
        f"STAGES:\n  mask_rcnn:\n    _BASE_: detectron2://{base}"
        + SMALL.format(masks=str(masks).lower(), more=more)
    )
    done = train_net_here(
        *("--stage", "mask_rcnn"),
        datasets=shapes_root,
        output=output,
        config=path,
        extra=[("mask_rcnn.MODEL.FPN.OUT_CHANNELS", "16")],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    entries = json.loads((output / "metrics.json").read_text())["stages"]
    protocols = {entry["protocol"] for entry in entries if entry["stage"] == "mask_rcnn"}
    assert protocols == ({"voc", "coco", "coco_bbox"} if masks else {"coco_bbox"})
    config = (output / "8_mask_rcnn" / "config.yaml").read_text()
    assert ("PointRendMaskHead" in config) == (name == "pointrend")


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_other_trunks_of_photographs(name, shapes_root, tmp_path):
    """The lines that docs/backbones_and_memory.md prints."""
    page = (ROOT / "docs" / "backbones_and_memory.md").read_text()
    (text,) = re.findall(r"```yaml\n(_BASE_: configs/irnet_photos.*?)```", page, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text.replace("mobilenetv2_100", name))
    tags = shapes_root / "shapes" / "tags_train.json"
    done = train_net_here(
        *("--until-stage", "cam"),
        datasets=shapes_root,
        output=tmp_path / "out",
        config=tmp_path / "mine.yaml",
        extra=[("DATA.TRAIN", str(tags)), ("MODEL.TIMM.WEIGHTS", ""), ("INPUT.CROP_SIDE", "65")],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    config = yaml.safe_load((tmp_path / "out" / "2_cam" / "config.yaml").read_text())
    assert config["MODEL"]["TIMM"]["NAME"] == name
    assert config["MODEL"]["PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
