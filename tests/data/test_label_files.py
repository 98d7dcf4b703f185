"""Results of any network become annotations; tests/tools/test_evaluate.py has the mistakes."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from wsis.data.label_files import CocoResults
from wsis.data.working_size import at_working_size
from wsis.errors import DataError
from wsis.evaluation.predictions import InstancePrediction
from wsis.layers.run_lengths import decode_rle, encode_mask

RECORD = {"file_name": "a.png", "image_id": 7, "image_key": "a", "height": 6, "width": 8}
MASK = np.zeros((6, 8), dtype=bool)
MASK[2:4, 2:6] = True
RESULT = {"image_id": 7, "category_id": 30, "score": 0.5}


@pytest.fixture
def find(tmp_path, request):
    name = f"results_{request.node.name}"
    DatasetCatalog.register(name, lambda: [RECORD])
    ids = {10: 0, 30: 1}
    about = {"thing_classes": ["dog", "cat"], "thing_dataset_id_to_contiguous_id": ids}
    MetadataCatalog.get(name).set(**about)

    def function(content, record=RECORD):
        (tmp_path / "r.json").write_text(json.dumps(content))
        return CocoResults(tmp_path / "r.json", name).find(record)

    yield function
    DatasetCatalog.pop(name), MetadataCatalog.pop(name)


def test_masks_give_boxes_that_are_missing(find):
    mask = encode_mask(MASK)
    stated = {"bbox": [1, 2, 3.5, 4], "segmentation": mask, "category_id": 10, "score": 1}
    first, second = find([RESULT | {"segmentation": mask}, RESULT | stated])
    assert first == {"category_id": 1, "score": 0.5, "bbox": [2, 2, 4, 2], "segmentation": mask}
    assert second == {k: stated[k] for k in ("score", "bbox", "segmentation")} | {"category_id": 0}
    (half,) = find([RESULT | {"segmentation": mask}], at_working_size(RECORD, 12))
    assert half["bbox"] == [1, 1, 2, 1]
    assert np.array_equal(decode_rle(half["segmentation"]), MASK[::2, ::2])


def test_boxes_alone_have_no_masks(find):
    (only,) = found = find([RESULT | {"bbox": [1, 2, 3, 4]}])
    assert only == {"category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}
    instances = InstancePrediction.of_annotations(found)
    assert not instances.has_masks
    assert instances.boxes.tolist() == [[1, 2, 4, 6]]
    assert InstancePrediction.of_annotations(find([])).has_masks  # nothing was found


def test_polygons_of_a_coco_file_are_drawn(find):
    square = [[2, 2, 6, 2, 6, 4, 2, 4]]
    one = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": square}
    content = {
        "images": [{"id": 1, "file_name": "x/a.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [one, one | {"iscrowd": 1}],
    }
    (found,) = find(content)
    assert (found["category_id"], found["score"], found["bbox"]) == (1, 1, [2, 2, 4, 2])
    assert np.array_equal(decode_rle(found["segmentation"]), MASK)


def test_a_class_that_is_not_there_is_named(find):
    """Its number is that of another class in the data set."""
    one = {"id": 1, "image_id": 7, "category_id": 10, "segmentation": encode_mask(MASK)}
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [one]}
    with pytest.raises(DataError, match="has no class 'boat'; its classes are dog, cat"):
        find(content | {"categories": [{"id": 10, "name": "boat"}]})


@pytest.mark.parametrize(
    "counts", ["zz~", [48, 1], [5, 10**12], "0" * 1000, [-1, 49], [50, -2]], ids=str
)
def test_run_lengths_are_never_trusted(find, counts):
    with pytest.raises(DataError, match="r.json: image 7: segmentation "):
        find([RESULT | {"segmentation": {"size": [6, 8], "counts": counts}}])


def test_what_trains_nothing_is_kept_apart():
    mask = encode_mask(MASK)
    one = {"category_id": 0, "bbox": [2, 2, 4, 2], "segmentation": mask, "score": 0.5}
    corner = np.zeros_like(MASK)
    corner[0, 0] = True
    found = InstancePrediction.of_annotations([one | {"ignore_mask": encode_mask(corner)}, one])
    assert np.array_equal(found.ignore, corner)
    assert np.array_equal(found.decoded(MASK.shape).masks, [MASK, MASK])
