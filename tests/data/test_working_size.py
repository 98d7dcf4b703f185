"""Images above INPUT.MAX_PIXELS: all of them made smaller, and enlarged where it leaves."""

import copy
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from wsis.data.artifacts import write_artifact
from wsis.data.ground_truth import load_ground_truth
from wsis.data.images import read_dataset_image
from wsis.data.label_files import CocoResults
from wsis.data.proposals.readers import ProposalSource
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.data.pseudo_labels import write_pseudo_labels
from wsis.data.transforms import resize_label
from wsis.data.working_size import (
    MAX_PIXELS,
    at_working_size,
    enlarge_instances,
    resize_annotation,
    resize_mask,
    working_size,
)
from wsis.errors import DataError, UsageError
from wsis.evaluation.predictions import InstancePrediction
from wsis.evaluation.voc_instance import VOCInstanceEvaluator
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import decode_rle, encode_mask
from wsis.modeling.network import mask_instances

from tests.data.mapping import SIZE, mapper_config, products_in, run, sample_in

LIMIT = SIZE[0] * SIZE[1] // 4  # half of each side
HALF = (SIZE[0] // 2, SIZE[1] // 2)


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((400, 600), 240_000, (400, 600)),
        ((400, 600), 239_999, (399, 599)),
        ((4000, 6000), 60_000, (200, 300)),
        ((4000, 6000), 0, (4000, 6000)),
        ((1, 9000), 100, (1, 100)),
        ((9000, 1), 100, (100, 1)),
        ((3, 90_000), 27_000, (1, 27_000)),
        ((5, 5), 1, (1, 1)),
        ((640, 640), MAX_PIXELS, (640, 640)),  # the largest of VOC and COCO
        ((800, 1310), MAX_PIXELS, (800, 1310)),
    ],
)
def test_working_size(size, limit, expected):
    assert working_size(size, limit) == expected


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 12345])
def test_no_size_exceeds_the_limit(limit):
    sizes = np.random.default_rng(limit).integers(1, 3000, (200, 2)).tolist()
    for size in [*sizes, [1, 10**8], [10**8, 1]]:
        height, width = working_size(tuple(size), limit)
        assert 1 <= height <= size[0]
        assert 1 <= width <= size[1]
        assert height * width <= limit


def test_a_negative_limit_is_refused():
    with pytest.raises(UsageError, match="INPUT.MAX_PIXELS is -1"):
        working_size((3, 4), -1)


def test_everything_of_an_image_becomes_smaller(tmp_path):
    """Twice is the same as once, and what is small enough is not touched."""
    record = sample_in(tmp_path)
    annotation = record["annotations"][0]
    annotation |= {"point": [30.0, 20.0], "area": 600.0, "unclipped_bbox": [20, 10, 30, 20]}
    polygons = [[20.0, 10.0, 50.0, 10.0, 50.0, 30.0, 20.0, 30.0]]
    corners = {"bbox": [20, 10, 50, 30], "bbox_mode": BoxMode.XYXY_ABS, "ignore_mask": None}
    record["annotations"].append({**annotation, **corners, "segmentation": polygons})
    before = copy.deepcopy(record)
    assert at_working_size(record, 4 * LIMIT) is record
    small = at_working_size(record, LIMIT)
    assert record == before
    assert at_working_size(small, LIMIT) is small
    assert (small["height"], small["width"], small["file_size"]) == (*HALF, SIZE)
    rle, polygon = small["annotations"]
    assert rle["bbox"] == rle["unclipped_bbox"] == [10, 5, 15, 10]
    assert polygon["bbox"] == [10, 5, 25, 15]
    assert (rle["point"], rle["area"], polygon["ignore_mask"]) == ([15, 10], 150, None)
    assert polygon["segmentation"] == [[10, 5, 25, 5, 25, 15, 10, 15]]
    expected = np.zeros(HALF, dtype=bool)
    expected[5:15, 10:25] = True
    truth = load_ground_truth(small)
    assert np.array_equal(truth.masks, [expected, expected])
    image = read_dataset_image(small)
    large = Image.open(record["file_name"]).resize(HALF[::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(image, np.asarray(large))
    pixels = {"pixels": read_dataset_image(record), **small}
    assert np.array_equal(read_dataset_image(pixels), image)


def test_an_image_without_a_stated_size(tmp_path):
    record = sample_in(tmp_path)
    del record["height"], record["width"]
    assert at_working_size(record, 4 * LIMIT) is record
    assert at_working_size(record, LIMIT)["file_size"] == SIZE


def test_a_damaged_mask_is_named(tmp_path):
    record = sample_in(tmp_path)
    record["annotations"][0]["segmentation"]["size"] = [40, 61]
    with pytest.raises(DataError, match=r"image 5 \(.*a1.png\): has size \[40, 61\]"):
        at_working_size(record, LIMIT)


def test_label_maps_of_voc(tmp_path):
    """Their size is compared with that of the file."""
    record = sample_in(tmp_path)
    del record["annotations"]
    objects = np.zeros(SIZE, dtype=np.uint8)
    objects[10:30, 20:50], objects[:4] = 1, 255
    for name, values in (("instance", objects), ("semantic", np.where(objects == 1, 3, objects))):
        record[f"{name}_file_name"] = str(tmp_path / f"{name}.png")
        Image.fromarray(values.astype(np.uint8)).save(record[f"{name}_file_name"])
    truth = load_ground_truth(at_working_size(record, LIMIT))
    assert truth.classes.tolist() == [2]
    assert truth.masks.shape == (1, *HALF)
    assert truth.masks.sum() == 150
    assert truth.void.sum() == 2 * HALF[1]
    Image.fromarray(objects[1:]).save(record["instance_file_name"])
    with pytest.raises(DataError, match="instance.png is 60 x 39"):
        load_ground_truth(at_working_size(record, LIMIT))


def test_no_object_is_lost_whatever_its_mask_is_kept_in(tmp_path):
    """Of 12 objects of one pixel, most lie between the pixels of the smaller size."""
    record = sample_in(tmp_path)
    objects = np.zeros(SIZE, dtype=np.uint8)
    places = [(3 * k + 1, 4 * k) for k in range(12)]
    for number, (y, x) in enumerate(places, start=1):
        objects[y, x] = number
    masks = [objects == number for number in range(1, 13)]
    record["annotations"] = [
        {"bbox": [x, y, 1, 1], "bbox_mode": 1, "category_id": 2, "segmentation": encode_mask(mask)}
        for (y, x), mask in zip(places, masks, strict=True)
    ]
    as_runs = load_ground_truth(at_working_size(record, LIMIT // 4))
    record["instance_file_name"] = str(tmp_path / "instance.png")
    Image.fromarray(objects).save(record["instance_file_name"])
    as_map = load_ground_truth(at_working_size(record, LIMIT // 4))
    for truth in (as_runs, as_map):
        assert truth.masks.sum(axis=(1, 2)).tolist() == [1] * 12
    assert np.array_equal(as_runs.masks, as_map.masks)
    assert as_map.classes.tolist() == as_runs.classes.tolist() == [2] * 12
    shrunk = resize_mask(masks[3], (SIZE[0] // 4, SIZE[1] // 4))
    assert np.argwhere(shrunk).tolist() == [[10 // 4, 12 // 4]]


@pytest.mark.parametrize("size", [(7, 11), (40, 61), (33, 1), (1, 60), (20, 30)])
def test_masks_shrink_as_pillow_does(size):
    mask = np.random.default_rng(1).random((40, 61)) < 0.5
    expected = resize_label(mask.view(np.uint8), size).view(bool)
    assert np.array_equal(resize_mask(mask, size), expected)


@pytest.mark.parametrize("name", ["InstanceMapper", "ImageLevelMapper", "MultiScaleMapper"])
@pytest.mark.parametrize("is_train", [True, False])
def test_mappers(tmp_path, name, is_train):
    cfg = mapper_config()
    cfg.INPUT.MAX_PIXELS, cfg.INPUT.CROP_SIDE = LIMIT, 0
    sample = run(cfg, name, sample_in(tmp_path), products_in(tmp_path), is_train=is_train)
    assert (sample["height"], sample["width"], sample["file_size"]) == (*HALF, SIZE)
    if name == "InstanceMapper" and is_train:  # 20 x 30 became 32 x 48
        assert sample["instances"].gt_boxes.tensor.tolist() == [[16, 8, 40, 24]]
        assert sample["instances"].gt_masks.tensor.sum() == 24 * 16


def test_proposals_in_files_have_the_size_of_the_image_file(tmp_path):
    record, masks = sample_in(tmp_path), np.random.default_rng(0).random((3, *SIZE)) < 0.5
    write_artifact(tmp_path / "a1.npz", proposals_artifact(by_rank(Regions.from_masks(masks))))
    source = ProposalSource(kind="npz", root=tmp_path)
    assert source(record)["labels"].shape == SIZE
    assert source(at_working_size(record, LIMIT))["labels"].shape == HALF


def test_masks_are_enlarged_as_they_were_made_smaller():
    mask = np.random.default_rng(0).random((4, 6)) < 0.5
    large = resize_mask(mask, (40, 60))
    assert np.array_equal(large, np.kron(mask, np.ones((10, 10), dtype=bool)))
    assert np.array_equal(resize_mask(large, (4, 6)), mask)
    assert resize_mask(mask, (4, 6)) is mask
    annotation = {"bbox": [1, 2, 3, 1], "segmentation": encode_mask(mask)}
    found = resize_annotation(annotation, (4, 6), (40, 60))
    assert found["bbox"] == [10, 20, 30, 10]
    assert np.array_equal(decode_rle(found["segmentation"]), large)
    arrays = {"masks": mask[None], "boxes": np.array([[1, 2, 4, 3]], np.float32), "scores": 1}
    found = enlarge_instances(arrays, (4, 6), (40, 60))
    assert np.array_equal(found["masks"], large[None])
    assert found["boxes"].tolist() == [[10, 20, 40, 30]]
    assert found["scores"] == 1


def test_pseudo_labels_have_the_size_of_the_file(tmp_path):
    record, masks = sample_in(tmp_path), np.zeros((1, *HALF), dtype=bool)
    masks[0, 5:15, 10:25] = True
    arrays = {"classes": np.array([2]), "scores": np.ones(1), "masks": masks, "ignore": ~masks}
    options = {"class_names": ("a", "b", "c"), "info": {}, "min_score": 0.0}

    def write(extra):
        path = tmp_path / "labels.json"
        write_pseudo_labels(
            path, [record], read_instances=lambda _: arrays | extra, max_pixels=LIMIT, **options
        )
        return json.loads(path.read_text())

    stated = write({})["images"][0]
    assert (stated["height"], stated["width"]) == SIZE
    found = write({})["annotations"][0]
    assert (found["bbox"], found["area"]) == ([20, 10, 30, 20], 600)
    assert decode_rle(found["segmentation"])[10:30, 20:50].all()
    assert np.array_equal(decode_rle(found["ignore_mask"]), ~decode_rle(found["segmentation"]))
    boxes = np.array([[9.5, 5, 25, 15.25]], dtype=np.float32)
    assert write({"boxes": boxes})["annotations"][0]["bbox"] == [19, 10, 31, 20.5]
    masks = np.zeros((1, *SIZE), dtype=bool)
    with pytest.raises(DataError, match=r"masks \(1, 40, 60\), not \(1, 20, 30\)"):
        write({"masks": masks})


def test_predictions_are_measured_smaller_and_written_at_the_size_of_the_file(tmp_path):
    record, name = sample_in(tmp_path), f"large_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["a", "b", "c"])
    mask = torch.zeros((1, *HALF), dtype=torch.bool)
    mask[0, 5:15, 10:25] = True
    found = mask_instances(mask, torch.tensor([2]), torch.tensor([0.5]))
    evaluator = VOCInstanceEvaluator(name, ("voc", "coco", "coco_bbox"), output_dir=tmp_path)
    sample = {"image_key": "a1", "height": HALF[0], "width": HALF[1], "file_size": SIZE}
    evaluator.process([sample], [{"instances": found}])
    figures = [found["AP50"] for found in evaluator.evaluate().values()]
    assert figures == pytest.approx([100, 100, 100])
    path = tmp_path / "coco_instances_results.json"
    (entry,) = json.loads(path.read_text())
    assert entry["bbox"] == [20, 10, 30, 20]
    expected = decode_rle(record["annotations"][0]["segmentation"])
    assert np.array_equal(decode_rle(entry["segmentation"]), expected)

    def read(record):
        return InstancePrediction.of_annotations(CocoResults(path, name).find(record))

    assert np.array_equal(read(record).decoded(expected.shape).masks, [expected])
    assert read(record).boxes.tolist() == [[20, 10, 50, 30]]
    small = read(at_working_size(record, LIMIT))
    assert np.array_equal(small.decoded(mask.shape[1:]).masks, mask)
    assert small.boxes.tolist() == [[10, 5, 25, 15]]
