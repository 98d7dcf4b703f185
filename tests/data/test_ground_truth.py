"""True masks come out the same from PNG and from COCO annotations."""

import numpy as np
import pytest
from wsis.data.ground_truth import has_ground_truth, load_ground_truth
from wsis.data.voc import load_voc
from wsis.errors import DataError
from wsis.layers import run_lengths
from wsis.layers.run_lengths import encode_mask

from tests.data.trees import voc_tree, xml

#           object 1: dog, object 3: cat (2 is missing), void at the end
INSTANCES = [[0, 1, 1, 3, 255, 0]] * 4
CLASSES = [[0, 12, 255, 8, 255, 255]] * 4


def voc_record(tmp_path, **parts):
    text = xml(("dog", 2, 1, 3, 4, 1), ("cow", 1, 1, 1, 1), ("cat", 4, 1, 4, 4, 1))
    root = voc_tree(tmp_path, {"a": {"xml": text} | parts}, {"train": ["a"]})
    return load_voc(root, "train")[0]


def test_png(tmp_path):
    record = voc_record(tmp_path, instances=INSTANCES, classes=CLASSES)
    truth = load_ground_truth(record)
    assert truth.classes.tolist() == [11, 7]
    assert truth.classes.dtype == np.int64
    assert truth.masks.shape == (2, 4, 6)
    assert truth.masks[:, 0].astype(int).tolist() == [[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
    assert truth.void[0].tolist() == [False, False, False, False, True, True]
    assert truth.difficult.tolist() == [True, True]
    assert truth.semantic(20)[0].tolist() == [0, 12, 255, 8, 255, 255]
    assert truth.semantic(20).dtype == np.int64
    with pytest.raises(DataError, match="label 8 in a ground truth of 5"):
        truth.semantic(5)


def test_class_from_the_xml_where_there_is_no_semantic_mask(tmp_path):
    truth = load_ground_truth(voc_record(tmp_path, instances=INSTANCES))
    assert truth.classes.tolist() == [11, 7]
    assert truth.semantic(20)[0].tolist() == [0, 12, 12, 8, 255, 0]


def test_object_without_class(tmp_path):
    record = voc_record(tmp_path, instances=[[9] * 6] * 4)
    with pytest.raises(DataError, match=r"a\.png: object 9 has no class"):
        load_ground_truth(record)


def test_no_object(tmp_path):
    truth = load_ground_truth(voc_record(tmp_path, instances=[[0] * 6] * 4))
    assert truth.masks.shape == (0, 4, 6)
    assert truth.semantic(20).sum() == 0


def test_size_must_agree(tmp_path):
    record = voc_record(tmp_path, instances=[[0] * 5] * 4)
    with pytest.raises(DataError, match="its image is 6 x 4"):
        load_ground_truth(record)


def coco_record(annotations):
    return {
        "file_name": "a.jpg",
        "image_id": 1,
        "height": 4,
        "width": 6,
        "annotations": annotations,
    }


def test_annotations():
    big = np.zeros((4, 6), bool)
    big[:, :4] = True
    crowd = np.zeros((4, 6), bool)
    crowd[:, 3:5] = True
    annotations = [
        {"category_id": 2, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
        {"category_id": 0, "segmentation": encode_mask(big)},
        {"category_id": 0, "segmentation": encode_mask(crowd), "iscrowd": 1},
    ]
    truth = load_ground_truth(coco_record(annotations))
    assert truth.classes.tolist() == [2, 0]
    assert truth.masks[0].sum() == 4
    assert truth.void.sum() == 4  # the crowd's fourth column belongs to the big object
    assert truth.semantic(3)[:, :5].tolist() == [[3, 3, 1, 1, 255]] * 2 + [[1, 1, 1, 1, 255]] * 2
    with pytest.raises(DataError, match="label 3"):
        truth.semantic(2)


def test_no_masks():
    boxes = coco_record([{"category_id": 0, "bbox": [0, 0, 2, 2], "id": 3}])
    tags = {"file_name": "a.jpg", "image_id": 1, "height": 4, "width": 6, "image_labels": [2]}
    for record in (boxes, tags, tags | {"annotations": []}):
        assert not has_ground_truth(record)
        with pytest.raises(DataError, match=r"a\.jpg\) has no true masks"):
            load_ground_truth(record)
    nothing = tags | {"image_labels": []}
    assert has_ground_truth(nothing)
    assert len(load_ground_truth(nothing).masks) == 0


def test_masks_have_a_limit(monkeypatch):
    monkeypatch.setattr(run_lengths, "MAX_STACK_BYTES", 23)
    record = {"file_name": "a.jpg", "image_id": 7, "height": 3, "width": 4}
    full = {"segmentation": encode_mask(np.ones((3, 4), bool)), "category_id": 0}
    assert len(load_ground_truth(record | {"annotations": [full]}).masks) == 1
    with pytest.raises(DataError, match=r"image 7 \(a\.jpg\): 2 masks of 4 x 3 .* too much memory"):
        load_ground_truth(record | {"annotations": [full] * 2})


def test_damaged_rle_names_the_annotation():
    bad = {"category_id": 0, "id": 6, "segmentation": {"size": [4, 6], "counts": "zz"}}
    with pytest.raises(DataError, match="image 1, annotation 6: segmentation"):
        load_ground_truth(coco_record([bad]))
