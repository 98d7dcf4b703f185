"""Boxes of real photographs (WSIS_DATA, default ../shared/data), skipped without them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from wsis.data.annotations import annotated_boxes, given_boxes
from wsis.data.coco import load_coco_dataset
from wsis.data.ground_truth import load_ground_truth
from wsis.data.salient import single_object_mask
from wsis.data.voc import load_voc
from wsis.evaluation.box_masks import object_of_boxes, paired_iou
from wsis.layers.box_baselines import filled_boxes
from wsis.layers.masks import fair_confidence, mask_boxes

PHOTOS = Path(os.environ.get("WSIS_DATA", "../shared/data")) / "coco_real"
SOME = 40

pytestmark = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}; set WSIS_DATA"
)


def test_boxes_of_the_xml_find_their_objects_in_the_picture():
    """Object k of a picture is the k-th of the XML here; nobody tells the matching that."""
    right = total = 0
    for record in load_voc(PHOTOS, "val")[:SOME]:
        objects = object_of_boxes(record, load_ground_truth(record))
        assert len(objects) == len(record["annotations"])
        right += int((objects == np.arange(len(objects))).sum())
        total += len(objects)
    assert total > SOME
    assert right >= 0.97 * total  # crowded rows of equal boxes may be taken for each other


def test_true_masks_fill_their_boxes():
    """The whole-pixel boxes hold the masks, and the fair confidence trusts nearly all of them."""
    records, _, _ = load_coco_dataset(PHOTOS / "instances_val.json", PHOTOS / "JPEGImages")
    inside, sure = [], []
    for record in records[:SOME]:
        truth = load_ground_truth(record).masks
        boxes = given_boxes(record, outwards=True)
        kept = truth & filled_boxes(boxes, truth.shape[1:])
        inside += paired_iou(kept, truth).tolist()
        stated = annotated_boxes(record)
        found = fair_confidence(mask_boxes(torch.from_numpy(kept)).numpy(), stated, tolerance=1.5)
        sure += (found > 0.95).tolist()
    assert np.mean(inside) > 0.98
    assert np.mean(sure) > 0.95


def test_the_listed_single_objects_are_those_of_the_rule():
    records, _, _ = load_coco_dataset(PHOTOS / "instances_val.json", PHOTOS / "JPEGImages")
    listed = set(json.loads((PHOTOS / "single_object_val.json").read_text()))
    found = {
        Path(r["file_name"]).name
        for r in records
        if single_object_mask(load_ground_truth(r)) is not None
    }
    assert found == listed
