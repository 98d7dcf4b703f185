"""Pseudo labels for Mask R-CNN (cim_msrcnn.npz)."""

import itertools
import json

import numpy as np
import pytest
import torch
from wsis.data.pseudo_labels import write_pseudo_labels
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import check_rle, decode_rle
from wsis.methods.cim.detections import detect, pseudo_label_detections
from wsis.methods.cim.mappers import clip_boxes
from wsis.methods.cim.meta_arch import to_instances
from wsis.methods.cim.stages import instances_artifact

from tests.golden.cim_cases import masks_of


def prefixes(arrays):
    return list(itertools.takewhile(lambda p: f"{p}id" in arrays, (f"im{i}_" for i in range(99))))


def instances(arrays, prefix, best_only):
    """The artifact of one image, as the stage makes it of scores."""
    masks = masks_of(arrays, prefix)
    boxes, scores = (torch.from_numpy(arrays[prefix + name]) for name in ("boxes", "scores"))
    present = torch.from_numpy(arrays[f"{prefix}labels"][0] > 0)
    found = pseudo_label_detections(detect(boxes, scores), present, best_only=best_only)
    regions = Regions.from_masks(masks)
    return instances_artifact({"instances": to_instances(found, regions)})


def written(arrays, path, **options):
    """What our export writes, as a dict of annotations an image."""
    records, kept = [], {}
    best_only = options.pop("best_only", False)
    for prefix in prefixes(arrays):
        height, width = (int(side) for side in arrays[f"{prefix}hw"])
        key = str(arrays[f"{prefix}id"])
        records.append({"image_key": key, "image_id": int(key), "height": height, "width": width})
        records[-1]["file_name"] = str(path.parent / f"{key}.jpg")
        kept[key] = instances(arrays, prefix, best_only)
    names = [f"class {i}" for i in range(arrays[f"{prefix}labels"].shape[1])]
    write_pseudo_labels(
        path,
        records,
        read_instances=lambda record: kept[record["image_key"]],
        class_names=names,
        info={},
        **options,
    )
    return json.loads(path.read_text())["annotations"]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, annotation in zip(ours, theirs, strict=True):
        for field in ("image_id", "category_id", "area", "iscrowd", "id"):
            assert mine[field] == annotation[field], field
        assert mine["bbox"] == annotation["bbox"]
        assert np.float32(mine["score"]) == np.float32(annotation["score"])
        size = annotation["segmentation"]["size"]
        masks = [decode_rle(check_rle(a["segmentation"], size)) for a in (mine, annotation)]
        np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize(("name", "best_only"), [("all_json", False), ("best_json", True)])
def test_annotations(golden, arrays, tmp_path, name, best_only):
    theirs = golden.text(arrays[name])["annotations"]
    ours = written(arrays, tmp_path / "a.json", min_score=0.0, best_only=best_only)
    assert_same(ours, theirs)


def test_threshold(arrays, tmp_path):
    ours = written(arrays, tmp_path / "a.json", min_score=0.3)
    np.testing.assert_array_equal([a["id"] for a in ours], arrays["thr_kept_id"])
    np.testing.assert_array_equal([a["category_id"] for a in ours], arrays["thr_kept_cat"])
    np.testing.assert_array_equal([a["image_id"] for a in ours], arrays["thr_kept_image"])
    scores = np.float32([a["score"] for a in ours])
    np.testing.assert_array_equal(scores, np.float32(arrays["thr_kept_score"]))


def test_boxes_are_those_of_the_masks(arrays):
    for prefix in prefixes(arrays):
        masks = masks_of(arrays, prefix)
        boxes = clip_boxes(Regions.from_masks(masks).boxes, masks.shape[1:])
        np.testing.assert_array_equal(boxes, arrays[f"{prefix}boxes"])
