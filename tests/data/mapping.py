"""An image with one masked object, what earlier stages made of it, and a mapper that takes both."""

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader, write_artifact
from wsis.data.mappers import build_mapper
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.layers.regions import Regions
from wsis.methods.cim.mappers import crops_artifact

SIZE = (40, 60)


def mapper_config():
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.CROP_SIDE = 48
    cfg.INPUT.LONGER_SIDE_RANGE = (30, 70)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.PIXEL_MEAN = [10.5, 20.25, 30.0]
    return cfg


def sample_in(tmp_path):
    """A dataset dict, of an image with one masked object."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a1.png")
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[10:30, 20:50] = 1
    annotation = {
        "bbox": [20.0, 10.0, 30.0, 20.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 2,
        "point": [35.0, 20.0],
        "iscrowd": 0,
        "segmentation": coco_mask.encode(np.asfortranarray(mask)),
    }
    return {
        "file_name": str(tmp_path / "a1.png"),
        "image_id": 5,
        "image_key": "a1",
        "height": SIZE[0],
        "width": SIZE[1],
        "image_labels": [2],
        "annotations": [annotation],
    }


def products_in(tmp_path):
    """Artifacts of earlier stages, by product."""
    label = np.full(SIZE, 0, dtype=np.uint8)
    label[:, 30:] = 3
    cam = {"keys": np.array([2]), "cam": np.random.default_rng(1).random((1, 10, 15), np.float32)}
    found = {}
    proposals = by_rank(Regions.from_masks(np.random.default_rng(2).random((3, *SIZE)) < 0.4))
    made = {
        "inter_pixel_label": {"label": label},
        "cam": cam,
        "proposals": proposals_artifact(proposals),
        "proposal_crops": crops_artifact(proposals, 7),
    }
    for name, arrays in made.items():
        found[name] = ProductReader(tmp_path / name, name)
        write_artifact(found[name].path("a1"), arrays)
    return found


def run(cfg, name, sample, products, *, is_train=True, seed=0):
    mapper = build_mapper(cfg, name, is_train=is_train, products=products)
    np.random.seed(seed)  # noqa: NPY002
    return mapper(sample)
