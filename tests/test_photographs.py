"""Real photographs: the folder named by WSIS_DATA (default ../shared/data), skipped without it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.contradictions import tell_contradictions
from wsis.data.ground_truth import load_ground_truth
from wsis.data.mappers import build_mapper
from wsis.data.problems import Problems
from wsis.data.user import register_datasets
from wsis.data.written_forms import Stated, Written, require_xywh
from wsis.engine.pipeline import load_pipeline
from wsis.errors import DataError
from wsis.stages import cam_artifact

from tests.tiny import ROOT

DATA = Path(os.environ.get("WSIS_DATA", "../shared/data"))
PHOTOS = DATA / "coco_real"
CONFIG = ROOT / "configs" / "irnet_photos.yaml"
# COCO's names of VOC's classes where they differ.
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
SOME = 12  # photographs that a test looks at

pytestmark = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}; set WSIS_DATA"
)


@pytest.mark.parametrize("path", sorted(DATA.glob("*/[ib]*s*.json")), ids=str)
def test_the_form_of_real_boxes_is_certain(path):
    """As they are no box is strange; in another form they are refused, however few images."""
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}

    def stated(form, some):
        return [
            Stated(a["image_id"], a["id"], form(*a["bbox"]), sizes[a["image_id"]])
            for a in content["annotations"]
            if a["image_id"] in some
        ]

    seen = Written("bbox")
    for one in stated(lambda *box: box, sizes):
        seen.see(one)
    assert seen.total
    assert not seen.strange
    corners = lambda x, y, w, h: (x, y, x + w, y + h)  # noqa: E731
    centres = lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)  # noqa: E731
    for form in (corners, centres):
        for some in ([*sizes][:8], sizes):
            with pytest.raises(DataError, match="is not in its place"):
                require_xywh(stated(form, some), path)


@pytest.mark.parametrize("path", sorted(DATA.glob("*/[ib]*s*.json")), ids=str)
def test_real_boxes_in_per_cent_are_certain(path):
    """As they are nothing is told of any eight images."""
    content = json.loads(path.read_text())
    images = {one["id"]: {"image_id": one["id"], **one} for one in content["images"]}
    for image in images.values():
        image["annotations"] = []
    for one in content["annotations"]:
        if not one.get("iscrowd"):
            box = {"id": one["id"], "iscrowd": 0, "bbox": one["bbox"]}
            images[one["image_id"]]["annotations"].append(box)
    problems, records = Problems(), [*images.values()]
    for start in range(0, len(records), 8):
        tell_contradictions(records[start : start + 8], path, problems)
    assert not problems.found
    for image in records:
        shares = np.array([image["width"], image["height"]] * 2) / 100
        for one in image["annotations"]:
            one["bbox"] = (np.array(one["bbox"]) / shares).tolist()
    with pytest.raises(DataError, match="as per cents of the image's sides do"):
        tell_contradictions(records, path, problems)


@pytest.fixture(scope="module")
def entries():
    """Descriptions of both splits, in both layouts."""
    found = []
    for split in ("train", "val"):
        voc = {"FORMAT": "voc", "ROOT": str(PHOTOS), "SPLIT": split}
        images, path = PHOTOS / "JPEGImages", PHOTOS / f"instances_{split}.json"
        coco = {"FORMAT": "coco", "JSON": str(path), "IMAGES": str(images)}
        found += [{"NAME": f"coco_real_{split}"} | voc, {"NAME": f"coco_real_{split}_coco"} | coco]
    yield found
    for entry in found:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if entry["NAME"] in catalog.list():
                catalog.pop(entry["NAME"])


@pytest.fixture(scope="module")
def names(entries):
    return register_datasets(entries)


@pytest.fixture(scope="module")
def stages(entries, names):
    overrides = ["DATA.TRAIN", "coco_real_train", "DATA.VAL", "coco_real_val"]
    return {planned.name: planned for planned in load_pipeline(CONFIG, overrides).stages}


@pytest.mark.parametrize(("split", "images", "objects"), [("train", 171, 700), ("val", 73, 274)])
def test_the_voc_view(names, split, images, objects):
    records = get_dataset_dicts(f"coco_real_{split}")
    assert len(records) == len({record["image_key"] for record in records}) == images
    assert sum(len(record["annotations"]) for record in records) == objects
    assert all(record["image_labels"] for record in records)
    for record in records[:SOME]:
        truth = load_ground_truth(record)
        assert truth.classes.tolist() == [a["category_id"] for a in record["annotations"]]
        assert sorted(set(truth.classes.tolist())) == record["image_labels"]


@pytest.mark.parametrize(("split", "images", "objects"), [("train", 215, 2016), ("val", 96, 756)])
def test_the_coco_json(names, split, images, objects):
    records = get_dataset_dicts(f"coco_real_{split}_coco")
    assert len(records) == images
    annotations = [a for record in records for a in record["annotations"]]
    assert sum(not a["iscrowd"] for a in annotations) == objects
    assert len(class_names(f"coco_real_{split}_coco")) == 80


def test_both_views_hold_the_same_objects(names):
    """A mask of the VOC view is a mask of the JSON without what lies on top of it or is void."""
    coco_records = {r["image_key"]: r for r in get_dataset_dicts("coco_real_train_coco")}
    coco_names = class_names("coco_real_train_coco")
    voc_names = [COCO_NAMES.get(name, name) for name in class_names("coco_real_train")]
    equal = compared = 0
    for record in get_dataset_dicts("coco_real_train")[:SOME]:
        voc = load_ground_truth(record)
        coco = load_ground_truth(coco_records[record["image_key"]])
        taken = voc.masks.any(axis=0) | voc.void
        for mask, index in zip(voc.masks, voc.classes, strict=True):
            same = coco.masks[coco.classes == coco_names.index(voc_names[index])]
            whole = same[np.argmax((same & mask).sum(axis=(1, 2)) / same.sum(axis=(1, 2)))]
            assert not (mask & ~whole).any()
            assert not (whole & ~mask & ~taken).any()
            equal += np.array_equal(mask, whole)
            compared += 1
    assert compared > SOME
    assert equal > compared / 3


def test_sizes_that_the_trunk_wants(stages):
    records = get_dataset_dicts("coco_real_val")[:SOME]
    for name in ("classifier", "cam"):
        planned = stages[name]
        mapper = build_mapper(planned.cfg, planned.stage.mapper, is_train=False, products={})
        for record in records:
            sample = mapper(record)
            assert (sample["height"], sample["width"]) == (record["height"], record["width"])
            for image in sample.get("images", [sample.get("image")]):
                assert image.dtype == torch.uint8
                assert all(side % 32 == 1 for side in image.shape[1:])
                assert float(image.float().std()) > 10
    mapper = build_mapper(stages["classifier"].cfg, "ImageLevelMapper", is_train=True, products={})
    shapes = {tuple(mapper(record)["image"].shape) for record in records}
    assert shapes == {(3, 321, 321)}


@torch.no_grad()
def test_maps_of_the_pretrained_trunk(stages):
    """Untrained classifier, real weights: the maps have the right sizes and follow the image."""
    cfg = stages["cam"].cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.SCALES = (1.0,)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    mapper = build_mapper(cfg, "MultiScaleMapper", is_train=False, products={})
    for record in get_dataset_dicts("coco_real_val")[:3]:
        sample = mapper(record)
        height, width = record["height"], record["width"]
        arrays = cam_artifact(model([sample])[0])
        assert arrays["keys"].tolist() == record["image_labels"]
        assert arrays["cam"].shape[1:] == ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
        assert arrays["high_res"].shape[1:] == (height, width)
        assert (arrays["cam"] >= 0).all()
        assert (arrays["high_res"] <= 1).all()
        assert arrays["cam"].max(axis=(1, 2)) == pytest.approx(1, abs=1e-3)
        mirrored = sample | {"images": [image.flip(-1) for image in sample["images"]]}
        other = cam_artifact(model([mirrored])[0])["high_res"][:, :, ::-1]
        assert np.abs(other - arrays["high_res"]).max() < 2e-3  # half precision
