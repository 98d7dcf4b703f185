import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.mappers import build_mapper
from wsis.data.stream import seeded
from wsis.errors import DataError, UsageError

SIZE = (40, 60)


@pytest.fixture
def cfg():
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT = "RGB"
    keys = cfg.MODEL.BOXCASEG
    keys.TRAIN_SIDE, keys.SALIENT_SIDE = 24, 32
    return cfg


@pytest.fixture
def sample(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    annotations = [
        {"bbox": [10.0, 5.0, 30.0, 20.0], "category_id": 2, "segmentation": [[1.0] * 6]},
        {"bbox": [1.5, 2.5, 3.0, 0.4], "category_id": 0},
        {"bbox": [0.0, 0.0, 60.0, 40.0], "category_id": 1, "iscrowd": 1},
    ]
    annotations = [a | {"bbox_mode": BoxMode.XYWH_ABS} for a in annotations]
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 5,
        "image_key": "a",
        "height": SIZE[0],
        "width": SIZE[1],
        "annotations": annotations,
    }


@pytest.fixture
def salient(sample, tmp_path):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    return sample | {"salient_file_name": str(tmp_path / "m.png"), "annotations": []}


def mapper_of(cfg, *, is_train):
    return build_mapper(cfg, "BoxCasegMapper", is_train=is_train, products={})


def one_box(sample):
    return sample | {"annotations": sample["annotations"][:1]}


def test_a_box_sample(cfg, sample):
    mapper = mapper_of(cfg, is_train=True)
    with seeded(1):
        found = mapper(one_box(sample))
    assert found["image"].shape == (3, 24, 24)
    assert found["image"].dtype == found["label"].dtype == torch.float32
    assert found["label"].unique().tolist() in ([0, 1], [1])
    assert found["salient"] is False
    assert not {"annotations", "instances"} & found.keys()
    with seeded(1):
        assert torch.equal(mapper(one_box(sample))["image"], found["image"])
    with seeded(2):
        assert not torch.equal(mapper(one_box(sample))["image"], found["image"])


def test_it_does_not_know_the_masks(cfg, sample):
    mapper = mapper_of(cfg, is_train=True)
    bare = one_box(sample)
    bare = bare | {
        "annotations": [{k: v for k, v in bare["annotations"][0].items() if k[:3] != "seg"}]
    }
    with seeded(1):
        found = mapper(one_box(sample))
    with seeded(1):
        assert torch.equal(mapper(bare)["label"], found["label"])


def test_a_salient_sample(cfg, salient):
    cfg.MODEL.BOXCASEG.SALIENT_FLIP = "both"
    found = mapper_of(cfg, is_train=True)(salient)
    assert found["salient"] is True
    assert found["image"].max() == pytest.approx(255, abs=1e-3)
    assert found["label"].unique().tolist() == [0, 1]


def test_a_salient_object_at_the_scale_of_a_box(cfg, salient):
    cfg.MODEL.BOXCASEG.SALIENT_CROP = "object"
    cfg.MODEL.BOXCASEG.SHIFT, cfg.MODEL.BOXCASEG.STRETCH = 0.0, (1.0, 1.0)
    assert mapper_of(cfg, is_train=True)(salient)["label"].all()
    cfg.MODEL.BOXCASEG.SALIENT_CROP = "box"
    with pytest.raises(UsageError, match="SALIENT_CROP is image or object, not 'box'"):
        mapper_of(cfg, is_train=True)


def test_boxes_for_prediction(cfg, sample):
    found = mapper_of(cfg, is_train=False)(sample)
    assert found["image"].shape == (3, *SIZE)
    boxes = found["proposals"].proposal_boxes.tensor
    assert boxes.tolist() == [[10, 5, 40, 25], [1, 2, 4, 3]]
    assert found["proposals"].gt_classes.tolist() == [2, 0]
    cfg.MODEL.BOXCASEG.OUTWARDS = True
    boxes = mapper_of(cfg, is_train=False)(sample)["proposals"].proposal_boxes.tensor
    assert boxes.tolist() == [[10, 5, 40, 25], [1, 2, 5, 3]]
    empty = mapper_of(cfg, is_train=False)(sample | {"annotations": []})
    assert empty["proposals"].proposal_boxes.tensor.shape == (0, 4)


def test_points_of_an_image(cfg, sample):
    """Nothing else of its annotations; those of crowds are left out."""
    point = {"category_id": 2, "iscrowd": 0, "point": [10.5, 20.25]}
    sample["annotations"] = [point, point | {"iscrowd": 1}, *sample["annotations"]]
    mapper = build_mapper(cfg, "BoxCasegPointMapper", is_train=False, products={})
    found = mapper(sample)
    assert found["image"].shape == (3, *SIZE)
    assert found["proposals"].proposal_points.tolist() == [[10.5, 20.25]]
    assert found["proposals"].gt_classes.tolist() == [2]


def test_grey_images(cfg, sample):
    grey = np.full(SIZE, 90, dtype=np.uint8)
    Image.fromarray(grey).save(sample["file_name"])
    assert (mapper_of(cfg, is_train=True)(one_box(sample))["image"] == 90).all()


def test_mistakes(cfg, sample, salient):
    with pytest.raises(DataError, match="one box, not 2"):
        mapper_of(cfg, is_train=True)(sample)
    small = np.ones((10, 10), dtype=np.uint8)
    Image.fromarray(small).save(salient["salient_file_name"])
    with pytest.raises(DataError, match="10 x 10 .* its image is 60 x 40"):
        mapper_of(cfg, is_train=True)(salient)
    cfg.MODEL.BOXCASEG.BOX_FLIP = "sideways"
    with pytest.raises(UsageError, match="BOX_FLIP is one of"):
        mapper_of(cfg, is_train=True)
    cfg.MODEL.BOXCASEG.BOX_FLIP, cfg.MODEL.BOXCASEG.SALIENT_SIDE = "none", 20
    with pytest.raises(UsageError, match="SALIENT_SIDE 20 is below TRAIN_SIDE 24"):
        mapper_of(cfg, is_train=True)
