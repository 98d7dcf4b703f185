import numpy as np
import pytest
import torch
import wsis.networks  # noqa: F401  (registers the mappers)
from PIL import Image
from pycocotools import mask as coco_mask
from wsis.data.instance_mapper import InstanceMapper
from wsis.data.mappers import MAPPER_REGISTRY, build_mapper
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.errors import DataError, UsageError
from wsis.layers.regions import Regions
from wsis.layers.retrieval import PreparedProposals
from wsis.methods.cim.overlaps import Overlaps
from wsis.stage import _STAGES, INSTANCE_MAPPERS, TrainStage

from tests.data.mapping import SIZE, mapper_config, products_in, run, sample_in


@pytest.fixture
def cfg():
    return mapper_config()


@pytest.fixture
def sample(tmp_path):
    return sample_in(tmp_path)


@pytest.fixture
def products(tmp_path):
    return products_in(tmp_path)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, PreparedProposals):
        return same(a.regions, b.regions) and (a.contours != b.contours).nnz == 0
    if isinstance(a, Overlaps):
        return same(a.iou, b.iou) and same(a.containment, b.containment)
    if isinstance(a, Regions):
        return np.array_equal(a.decode(), b.decode())
    if hasattr(a, "get_fields"):
        return str(a.get_fields()) == str(b.get_fields())
    return a == b


@pytest.mark.parametrize("name", sorted(name for name, _ in MAPPER_REGISTRY))
@pytest.mark.parametrize("is_train", [True, False])
def test_every_mapper(cfg, sample, products, name, is_train):
    out = run(cfg, name, sample, products, is_train=is_train)
    assert {k: out[k] for k in ("image_key", "image_id", "height", "width")} == {
        "image_key": "a1",
        "image_id": 5,
        "height": SIZE[0],
        "width": SIZE[1],
    }
    views = [image for image, _ in out.get("views", [])]
    for image in out.get("images", views or [out.get("image")]):
        assert image.shape[0] == 3
        assert image.dtype in (torch.uint8, torch.float32)
    again = run(cfg, name, sample, products, is_train=is_train)
    assert out.keys() == again.keys()
    assert [key for key, value in out.items() if not same(value, again[key])] == []


@pytest.mark.parametrize(
    "name", ["ImageLevelMapper", "PixelLabelMapper", "MultiScaleMapper", "TopLeftCropMapper"]
)
def test_masks_and_boxes_change_nothing(cfg, sample, products, name):
    """What goes into the loss of an image-level stage does not depend on masks or boxes."""
    scrambled = dict(sample, instance_file_name="/nowhere.png", semantic_file_name="/nowhere.png")
    other = dict(sample["annotations"][0], bbox=[0.0, 0.0, 1.0, 1.0], category_id=0)
    other["segmentation"] = coco_mask.encode(np.asfortranarray(np.ones(SIZE, np.uint8)))
    for annotations in ([], [other] * 3):
        scrambled["annotations"] = annotations
        for seed in range(3):
            a = run(cfg, name, sample, products, seed=seed)
            b = run(cfg, name, scrambled, products, seed=seed)
            assert a.keys() == b.keys()
            assert all(same(value, b[key]) for key, value in a.items())
            assert not {"annotations", "instance_file_name", "semantic_file_name"} & b.keys()


@pytest.mark.parametrize("name", ["InstanceMapper", "BoxInstMapper"])
def test_box_training_does_not_see_masks(cfg, sample, products, name):
    cfg.MODEL.MASK_ON = name == "BoxInstMapper"  # whose masks learn from boxes
    a = run(cfg, name, sample, products)
    other = np.asfortranarray(np.ones(SIZE, np.uint8))
    annotation = dict(sample["annotations"][0], segmentation=coco_mask.encode(other))
    b = run(cfg, name, dict(sample, annotations=[annotation]), products)
    assert not a["instances"].has("gt_masks")
    assert same(a["instances"], b["instances"])


def test_canvas_is_the_mean_colour(cfg, sample, products):
    cfg.INPUT.LONGER_SIDE_RANGE = (30, 30)
    out = run(cfg, "ImageLevelMapper", sample, products)
    assert out["image"].shape == (3, 48, 48)
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN)[:, None, None]
    outside = (out["image"] == mean).all(dim=0)
    assert int(outside.sum()) == 48 * 48 - 30 * 20  # 60 x 40 became 30 x 20
    assert out["image_labels"] == [2]


def test_longer_side_and_flip(cfg, sample, products):
    cfg.INPUT.CROP_SIDE = 0
    longer, flips = set(), 0
    plain = run(cfg, "ImageLevelMapper", sample, products, is_train=False)["image"]
    for seed in range(60):
        cfg.INPUT.LONGER_SIDE_RANGE = (58, 61)
        image = run(cfg, "ImageLevelMapper", sample, products, seed=seed)["image"]
        longer.add(image.shape[2])
        if image.shape == plain.shape:
            assert torch.equal(image, plain) or torch.equal(image, plain.flip(2))
            flips += torch.equal(image, plain.flip(2))
    assert longer == {58, 59, 60, 61}
    assert flips > 0


def test_multi_scale_sizes(cfg, sample, products):
    out = run(cfg, "MultiScaleMapper", sample, products, is_train=False)
    assert [tuple(i.shape[1:]) for i in out["images"]] == [(40, 60), (20, 30), (60, 90), (80, 120)]
    cfg.INPUT.SIDE_RULE = (32, 1)
    out = run(cfg, "MultiScaleMapper", sample, products, is_train=False)
    assert [tuple(i.shape[1:]) for i in out["images"]] == [(33, 65), (33, 33), (65, 97), (65, 129)]
    assert (out["height"], out["width"]) == SIZE
    del sample["image_labels"]
    assert "image_labels" not in run(cfg, "MultiScaleMapper", sample, products, is_train=False)


def test_working_size_and_side_rule_hold_for_whole_images(cfg, sample, products):
    cfg.INPUT.LONGER_SIDE, cfg.INPUT.SIDE_RULE, cfg.INPUT.CROP_SIDE = 97, (32, 1), 0
    cfg.INPUT.SCALES, cfg.INPUT.RESCALE_RANGE = (1.0, 0.5), (1.0, 1.0)
    working = {}
    for name in ("ImageLevelMapper", "TopLeftCropMapper", "ProductImageMapper"):
        out = run(cfg, name, sample, products, is_train=False)
        assert (out["height"], out["width"]) == SIZE
        working[name] = tuple(out["image"].shape[1:])
    out = run(cfg, "PixelLabelMapper", sample, products)
    working["PixelLabelMapper"] = tuple(out["inter_pixel_label"].shape)
    assert set(working.values()) == {(65, 97)}
    out = run(cfg, "MultiScaleMapper", sample, products, is_train=False)
    assert [tuple(i.shape[1:]) for i in out["images"]] == [(65, 97), (33, 33)]


def test_channel_order(cfg, sample, products):
    rgb = run(cfg, "ProductImageMapper", sample, products, is_train=False)["image"]
    cfg.INPUT.FORMAT = "BGR"
    bgr = run(cfg, "ProductImageMapper", sample, products, is_train=False)["image"]
    assert torch.equal(rgb.flip(0), bgr)
    cfg.INPUT.FORMAT = "YUV-BT.601"
    with pytest.raises(UsageError, match="INPUT.FORMAT"):
        run(cfg, "ProductImageMapper", sample, products)


def test_instances(cfg, sample, products):
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    crowd = dict(sample["annotations"][0], iscrowd=1, category_id=0)
    sample["annotations"].append(crowd)
    out = run(cfg, "InstanceMapper", sample, products)
    instances = out["instances"]
    assert instances.gt_classes.tolist() == [2]
    assert instances.gt_boxes.tensor.tolist() == [[20, 10, 50, 30]]
    assert instances.gt_masks.tensor[0, 10:30, 20:50].all()
    assert int(instances.gt_masks.tensor.sum()) == 600


def test_instances_of_voc_files(cfg, sample, products, tmp_path):
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    objects = np.zeros(SIZE, dtype=np.uint8)
    objects[5:15, 3:9], objects[20:39, 30:50], objects[0] = 1, 2, 255
    classes = np.where(objects == 1, 4, np.where(objects == 2, 1, objects)).astype(np.uint8)
    for name, array in {"instance": objects, "semantic": classes}.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        sample[f"{name}_file_name"] = str(tmp_path / f"{name}.png")
    sample["annotations"] = []
    instances = run(cfg, "InstanceMapper", sample, products)["instances"]
    assert instances.gt_classes.tolist() == [3, 0]
    assert instances.gt_boxes.tensor.tolist() == [[3, 5, 9, 15], [30, 20, 50, 39]]
    assert instances.gt_masks.tensor.sum((1, 2)).tolist() == [60, 380]


def test_no_object_and_no_mask(cfg, sample, products):
    empty = run(cfg, "InstanceMapper", dict(sample, annotations=[]), products)
    assert len(empty["instances"]) == 0
    del sample["annotations"][0]["segmentation"]
    with pytest.raises(DataError, match="without a mask"):
        run(cfg, "InstanceMapper", sample, products)
    out = run(cfg, "InstanceMapper", sample, products, is_train=False)
    assert "instances" not in out


@pytest.mark.parametrize(("size", "mode"), [((1, 37), "L"), ((37, 1), "RGBA"), ((30, 20), "I;16")])
def test_odd_files(cfg, sample, products, size, mode):
    height, width = size
    Image.new(mode, (width, height)).save(sample["file_name"])
    odd = dict(sample, height=height, width=width, annotations=[])
    for name in ("ImageLevelMapper", "MultiScaleMapper", "TopLeftCropMapper", "InstanceMapper"):
        for is_train in (True, False):
            out = run(cfg, name, odd, products, is_train=is_train)
            assert all(min(i.shape) > 0 for i in out.get("images", [out.get("image")]))


def test_unknown_names(cfg, products):
    with pytest.raises(UsageError, match="ImageLevelMapper"):
        build_mapper(cfg, "NoMapper", is_train=True, products=products)


def test_instance_mappers_are_known_by_name():
    kinds = {n for n, kind in MAPPER_REGISTRY if issubclass(kind, InstanceMapper)}
    assert kinds == INSTANCE_MAPPERS & {n for n, _ in MAPPER_REGISTRY}


TRAINING = {s.mapper for s in _STAGES.values() if isinstance(s, TrainStage)}


@pytest.mark.parametrize("name", sorted(TRAINING - INSTANCE_MAPPERS))
def test_flips_that_a_mapper_cannot_do_are_refused(cfg, products, name):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    with pytest.raises(UsageError, match="RANDOM_FLIP"):
        build_mapper(cfg, name, is_train=True, products=products)


def trusting(cfg, sample, products, **options):
    for name, value in options.items():
        setattr(cfg.MODEL.ROI_MASK_HEAD, name, value)
    return run(cfg, "InstanceMapper", sample, products)["instances"]


def doubtful(sample):
    """The sample with an annotation of an empty mask and one that ignores its left half."""
    first = sample["annotations"][0]
    none = coco_mask.encode(np.asfortranarray(np.zeros(SIZE, dtype=np.uint8)))
    ignore = np.zeros(SIZE, dtype=np.uint8)
    ignore[:, :30] = 1
    ignore = coco_mask.encode(np.asfortranarray(ignore))
    annotations = [
        first | {"ignore_mask": ignore},
        first | {"segmentation": none, "confidence": 0.25},
    ]
    return sample | {"annotations": annotations}


def test_instances_that_teach_their_box_only_stay(cfg, sample, products):
    stock = trusting(cfg, doubtful(sample), products)
    assert len(stock) == 1
    assert not stock.has("gt_confidence")
    found = trusting(cfg, doubtful(sample), products, MIN_CONFIDENCE=0.95)
    assert found.gt_confidence.tolist() == [1.0, 0.25]
    assert found.gt_masks.tensor[0].any()
    assert not found.gt_masks.tensor[1].any()
    assert not found.has("gt_ignore_masks")


def test_ignored_pixels_move_with_the_image(cfg, sample, products):
    cfg.INPUT.RANDOM_FLIP = "none"
    found = trusting(cfg, doubtful(sample), products, USE_IGNORE=True)
    assert len(found) == 1  # without the rule an empty mask goes, as in Detectron2
    ignored = found.gt_ignore_masks.tensor[0]
    width = ignored.shape[1]
    assert ignored[:, : width // 2 - 1].all()
    assert not ignored[:, width // 2 + 1 :].any()
    plain = trusting(cfg, sample, products, USE_IGNORE=True)
    assert plain.gt_ignore_masks.tensor.shape == plain.gt_masks.tensor.shape
    assert not plain.gt_ignore_masks.tensor.any()
    empty = trusting(cfg, sample | {"annotations": []}, products, MIN_CONFIDENCE=0.95)
    assert len(empty) == 0


def test_trust_needs_bitmaps(cfg, sample, products):
    cfg.INPUT.MASK_FORMAT = "polygon"
    with pytest.raises(UsageError, match="need INPUT.MASK_FORMAT bitmask"):
        trusting(cfg, sample, products, MIN_CONFIDENCE=0.95)


def test_proposals_have_the_size_of_the_file(cfg, sample, products):
    masks = np.zeros((2, *SIZE), dtype=bool)
    masks[0, 3:9, 4:20] = masks[1, 8:20] = True
    given = {"proposals": {"a1": proposals_artifact(by_rank(Regions.from_masks(masks)))}}
    cfg.INPUT.STRETCH = (64, 96)
    out = run(cfg, "PeakImageMapper", sample, given, is_train=False)
    assert out["image"].shape == (3, 64, 96)
    assert (out["height"], out["width"]) == SIZE
    assert np.array_equal(out["proposals"].decode(), masks)
    assert out["image_labels"] == [2]
    assert "annotations" not in out
    other = proposals_artifact(by_rank(Regions.from_masks(np.ones((1, 40, 59), dtype=bool))))
    with pytest.raises(DataError, match="image a1: .*run --from-stage proposals --force"):
        run(cfg, "PeakImageMapper", sample, {"proposals": {"a1": other}}, is_train=False)


def test_peaks_without_proposals_and_tags(cfg, sample, products):
    del sample["image_labels"]
    cfg.INPUT.LONGER_SIDE = 90
    out = run(cfg, "PeakImageMapper", sample, {}, is_train=False)
    assert out["image"].shape == (3, 60, 90)
    assert "proposals" not in out
    assert "image_labels" not in out


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3000, 6), (6, 3000), (3000, 1)])
def test_thin_images_train_mask_rcnn(tmp_path, size):
    """Mirrored or not, with a mask over all of the image, cropped or not."""
    cfg, sample = mapper_config(), sample_in(tmp_path)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, [0.3, 0.3]
    Image.fromarray(np.full((*size, 3), 200, dtype=np.uint8)).save(sample["file_name"])
    sample["height"], sample["width"] = size
    rle = coco_mask.encode(np.asfortranarray(np.ones(size, dtype=np.uint8)))
    sample["annotations"][0] |= {"bbox": [0, 0, size[1], size[0]], "segmentation": rle}
    for seed in range(6):
        found = run(cfg, "InstanceMapper", sample, {}, seed=seed)
        assert min(found["image"].shape) >= 1
        assert (found["image"] == 200).all()
        assert found["instances"].gt_masks.tensor.all()
    found = run(cfg, "InstanceMapper", sample, {}, is_train=False)
    assert min(found["image"].shape) >= 1
    assert (found["height"], found["width"]) == size


def pointed(tmp_path):
    """A grey picture of 60 x 80 whose pixels at the points of classes 2, 0 and 2 are coloured."""
    pixels = np.full((60, 80, 3), 128, dtype=np.uint8)
    places, classes = [(10, 5), (70, 30), (40, 55)], [2, 0, 2]
    for (x, y), class_id in zip(places, classes, strict=True):
        pixels[y - 2 : y + 3, x - 2 : x + 3] = (255, 0, 0) if class_id == 2 else (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "points.png")
    annotations = [
        {"category_id": c, "iscrowd": 0, "point": [x + 0.5, y + 0.5], "segmentation": [[1] * 6]}
        for (x, y), c in zip(places, classes, strict=True)
    ]
    found = {"file_name": str(tmp_path / "points.png"), "image_id": 1, "image_key": "points"}
    found |= {"height": 60, "width": 80, "image_labels": [0, 2], "annotations": annotations}
    return found


def test_a_crop_has_the_tags_of_the_points_in_it(cfg, tmp_path):
    cfg.INPUT.LONGER_SIDE_RANGE, cfg.INPUT.CROP_SIDE = (80, 160), 40
    record, seen = pointed(tmp_path), set()
    for seed in range(60):
        out = run(cfg, "PointCropMapper", record, {}, seed=seed)
        red, _, blue = out["image"].numpy().astype(int)
        seen.add(tuple(out["image_labels"]))
        for label, difference in ((0, blue - red), (2, red - blue)):
            inner = (difference[5:-5, 5:-5] > 100).any()  # more than a spot's half from the border
            assert inner <= (label in out["image_labels"]) <= (difference > 20).any()
    assert {(), (0,), (2,)} <= seen
    whole = run(cfg, "PointCropMapper", record, {}, is_train=False)
    assert whole["image_labels"] == [0, 2]
    cfg.INPUT.CROP_SIDE = 0
    assert run(cfg, "PointCropMapper", record, {}, seed=1)["image_labels"] == [0, 2]


def test_points_of_a_whole_image_are_shares_of_it(cfg, tmp_path):
    cfg.INPUT.LONGER_SIDE = 32
    record = pointed(tmp_path)
    found = run(cfg, "PointImageMapper", record, {}, is_train=False)
    expected = [[2, 5.5 / 60, 10.5 / 80], [0, 30.5 / 60, 70.5 / 80], [2, 55.5 / 60, 40.5 / 80]]
    np.testing.assert_allclose(found["points"].numpy(), expected, rtol=1e-6)
    assert found["image"].shape == (3, 24, 32)
    assert "points" not in run(cfg, "PeakImageMapper", record, {}, is_train=False)
    nothing = record | {"annotations": [], "image_labels": []}
    assert run(cfg, "PointImageMapper", nothing, {}, is_train=False)["points"].shape == (0, 3)
    with pytest.raises(DataError, match="image points has tags but no points; add a point to each"):
        run(cfg, "PointImageMapper", record | {"annotations": []}, {}, is_train=False)
