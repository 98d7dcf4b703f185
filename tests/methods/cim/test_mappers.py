import numpy as np
import pytest
import torch
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import encode_artifact, read_artifact
from wsis.data.mappers import build_mapper
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.errors import DataError, UsageError
from wsis.layers.regions import Regions
from wsis.methods.cim.mappers import (
    clip_boxes,
    crops_artifact,
    crops_from_artifact,
    flip_boxes,
)
from wsis.methods.cim.overlaps import overlaps_of_regions

SIZE = (30, 40)


def proposals(count=5, size=SIZE):
    rng = np.random.default_rng(0)
    masks = rng.random((count, *size)) < 0.3
    masks[:, :, 25:] = False
    return by_rank(Regions.from_masks(masks))


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    found = {"file_name": str(path), "image_key": "a", "image_id": 1, "image_labels": [2]}
    return found | {"height": SIZE[0], "width": SIZE[1], "annotations": [{"bbox": [0, 0, 1, 1]}]}


def mapper(is_train, made=None, *, flip=True, crop_size=7):
    made = proposals() if made is None else made
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT, cfg.INPUT.FLIP_TEST, cfg.MODEL.CIM.CROP_SIZE = "RGB", flip, crop_size
    cfg.INPUT.LONGER_SIDES_TRAIN = cfg.INPUT.LONGER_SIDES_TEST = (20, 60)
    products = {
        "proposals": {"a": proposals_artifact(made)},
        "proposal_crops": {"a": crops_artifact(made, 7)},
    }
    if is_train:
        clusters = {"ids": np.arange(len(made)), "classes": np.ones(len(made))}
        products["proposal_clusters"] = {"a": clusters}
    return build_mapper(cfg, "ProposalBagMapper", is_train=is_train, products=products)


def test_crops_survive_the_file(tmp_path):
    made = proposals()
    path = tmp_path / "a.npz"
    path.write_bytes(encode_artifact(crops_artifact(made, 5)))
    boxes, crops = crops_from_artifact(read_artifact(path))
    np.testing.assert_array_equal(boxes, made.regions.boxes)
    np.testing.assert_array_equal(crops, made.regions.crops(5))
    with pytest.raises(ValueError, match="crops"):
        crops_from_artifact(
            {"boxes": boxes[:2], "crops": np.zeros((5, 1)), "crop_size": np.array(5)}
        )
    with pytest.raises(ValueError, match="no 'boxes'"):
        crops_from_artifact({})


def test_boxes():
    boxes = np.array([[0, 0, 40, 30], [3, 4, 10, 9]])
    clipped = clip_boxes(boxes, SIZE)
    assert clipped.tolist() == [[0, 0, 39, 29], [3, 4, 10, 9]]
    flipped = flip_boxes(clipped, SIZE[1])
    assert flipped.tolist() == [[0, 0, 39, 29], [29, 4, 36, 9]]
    np.testing.assert_array_equal(flip_boxes(flipped, SIZE[1]), clipped)


def test_training_sample(record):
    np.random.seed(0)  # noqa: NPY002
    made, seen = proposals(), set()
    for _ in range(12):
        sample = mapper(True, made)(record)
        height, width = sample["image"].shape[1:]
        seen.add(width)
        found = sample["proposals"]
        assert found.image_size == (height, width)
        scale = max(height, width) / max(SIZE)
        plain = clip_boxes(made.regions.boxes, SIZE)
        boxes = found.proposal_boxes.tensor.numpy() / scale
        mirrored = not np.allclose(boxes, plain)
        expected = flip_boxes(plain, SIZE[1]) if mirrored else plain
        np.testing.assert_allclose(boxes, expected, atol=1e-4)
        crops = made.regions.crops(7)
        crops = crops[:, :, ::-1] if mirrored else crops
        np.testing.assert_array_equal(found.proposal_crops, crops)
        assert "annotations" not in sample
    assert seen == {20, 60}
    assert found.cluster_ids.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(sample["overlaps"].iou, overlaps_of_regions(made.regions).iou)
    assert sample["image_labels"] == [2]


def test_serving_sample(record):
    sample = mapper(False)(record)
    images, found = zip(*sample["views"], strict=True)
    assert [image.shape[1:] for image in images] == [(15, 20)] * 2 + [(45, 60)] * 2
    boxes, crops = sample["proposals"].proposal_boxes.tensor, sample["proposals"].proposal_crops
    mirrored = torch.from_numpy(flip_boxes(boxes.numpy(), SIZE[1]))
    for view, scale, flip in zip(found, [0.5, 0.5, 1.5, 1.5], [False, True] * 2, strict=True):
        assert torch.equal(view.proposal_boxes.tensor, (mirrored if flip else boxes) * scale)
        assert torch.equal(view.proposal_crops, crops.flip(2) if flip else crops)
    assert (sample["height"], sample["width"]) == SIZE
    assert len(sample["regions"]) == len(sample["proposals"]) == 5
    assert len(mapper(False, flip=False)(record)["views"]) == 2


def test_an_image_without_proposals(record):
    made = by_rank(Regions.from_masks(np.zeros((0, *SIZE), dtype=bool)))
    assert len(mapper(True, made)(record)["proposals"]) == 0
    assert len(mapper(False, made)(record)["proposals"]) == 0


def test_proposals_of_another_size(record):
    with pytest.raises(DataError, match="image a: .*30, 41.*run --from-stage proposals --force"):
        mapper(True, proposals(size=(30, 41)))(record)


def test_products_that_do_not_fit_together(record):
    reader = mapper(True)
    reader.products["proposal_crops"] = {"a": crops_artifact(proposals(3), 7)}
    with pytest.raises(DataError, match="3 crops of side 7 for 5 proposals"):
        reader(record)
    reader = mapper(True, crop_size=5)
    with pytest.raises(DataError, match="MODEL.CIM.CROP_SIZE 5"):
        reader(record)
    reader = mapper(True)
    reader.clusters = {"a": {"ids": np.zeros(2), "classes": np.zeros(2)}}
    with pytest.raises(DataError, match="clusters of 2 proposals, there are 5"):
        reader(record)


def test_no_sides():
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.LONGER_SIDES_TEST = ()
    products = {"proposals": {}, "proposal_crops": {}}
    with pytest.raises(UsageError, match="LONGER_SIDES_TEST"):
        build_mapper(cfg, "ProposalBagMapper", is_train=False, products=products)
