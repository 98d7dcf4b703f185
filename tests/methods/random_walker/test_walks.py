"""A picture divided among its points: what random walks reach first."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.errors import DataError
from wsis.methods.random_walker.stages import derive_walked_masks
from wsis.methods.random_walker.walks import walk_from_points

from tests.tiny import ROOT, train_net_here

DISCS = {(30, 25): 14, (40, 75): 18, (70, 45): 10}  # centre (y, x): radius


def discs(noise=4, seed=0):
    """Three discs of nearly one colour on another, with noise; their true masks."""
    rows, columns = np.ogrid[:90, :120]
    masks = np.array([(rows - y) ** 2 + (columns - x) ** 2 <= r * r for (y, x), r in DISCS.items()])
    image = np.where(masks.any(axis=0)[..., None], (200, 60, 50), (90, 120, 90)).astype(float)
    image += np.random.default_rng(seed).normal(0, noise, image.shape)
    return image.clip(0, 255).astype(np.uint8), masks


def walk(image, points, count=300, sharpness=4.0):
    return walk_from_points(
        image, np.array(points).reshape(-1, 2), count=count, sharpness=sharpness
    )


def test_each_point_gets_its_disc():
    image, truth = discs()
    masks, scores = walk(image, list(DISCS))
    iou = (masks & truth).sum(axis=(1, 2)) / (masks | truth).sum(axis=(1, 2))
    assert iou.min() > 0.9
    assert ((scores > 0.5) & (scores <= 1)).all()
    order = [2, 0, 1]
    again, _ = walk(image, [list(DISCS)[k] for k in order])
    assert np.array_equal(again, masks[order])


def test_two_points_in_one_disc_share_it():
    image, truth = discs()
    masks, _ = walk(image, [(40, 70), (40, 80)])
    assert not (masks[0] & masks[1]).any()
    whole = masks.any(axis=0)
    assert (whole & truth[1]).sum() / (whole | truth[1]).sum() > 0.9
    assert min(masks.sum(axis=(1, 2))) > 0.25 * truth[1].sum()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2), (3, 3)])
def test_thin_pictures_and_those_of_one_colour(size):
    image = np.full((*size, 3), 77, dtype=np.uint8)
    masks, scores = walk(image, [(0, 0), (size[0] - 1, size[1] - 1)])
    assert masks.shape == (2, *size)
    assert masks[0, 0, 0]
    assert masks[1, -1, -1] or size == (1, 1)  # of points on one pixel the first has the mask
    assert np.isfinite(scores).all()


def test_no_points():
    masks, scores = walk(discs()[0], [])
    assert masks.shape == (0, 90, 120)
    assert scores.shape == (0,)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 23), st.integers(0, 31)), min_size=1, max_size=12),
    st.integers(0, 1000),
    st.sampled_from([0.0, 4.0, 50.0]),
)
def test_masks_have_their_points_and_do_not_overlap(points, seed, sharpness):
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    masks, scores = walk(image, points, count=30, sharpness=sharpness)
    assert masks.sum(axis=0).max() <= 1
    assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
    for number, place in enumerate(points):
        assert masks[number][place] == (points.index(place) == number)


def record(tmp_path, points, factor=1):
    image, _ = discs()
    picture = Image.fromarray(image).resize((120 * factor, 90 * factor), Image.Resampling.NEAREST)
    picture.save(tmp_path / "a.png")
    annotations = [
        {"category_id": k, "iscrowd": 0, "point": [float(x), float(y)], "segmentation": "unseen"}
        for k, (x, y) in enumerate(points)
    ]
    found = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "image_key": "a"}
    sides = {"height": 90 * factor, "width": 120 * factor}
    return found | sides | {"image_labels": [0], "annotations": annotations}


def test_large_pictures_are_worked_on_smaller(tmp_path):
    cfg = get_wsis_cfg()
    cfg.MODEL.RANDOM_WALKER.LONGER_SIDE = 120
    points = [(4 * x + 2, 4 * y + 2) for y, x in DISCS]
    found = derive_walked_masks(record(tmp_path, points, factor=4), {}, cfg)
    assert found["masks"].shape == (3, 360, 480)
    truth = discs()[1].repeat(4, axis=1).repeat(4, axis=2)
    iou = (found["masks"] & truth).sum(axis=(1, 2)) / (found["masks"] | truth).sum(axis=(1, 2))
    assert iou.min() > 0.9
    assert found["classes"].tolist() == [0, 1, 2]
    assert found["scores"].dtype == np.float32


def test_points_on_the_border_on_one_pixel_and_none(tmp_path):
    cfg = get_wsis_cfg()
    found = derive_walked_masks(record(tmp_path, [(120, 90), (120, 90), (0, 0)]), {}, cfg)
    assert found["classes"].tolist() == [0, 2]
    assert found["masks"][0, 89, 119]
    assert found["masks"][1, 0, 0]
    nothing = record(tmp_path, [])
    with pytest.raises(DataError, match="image a has tags but no points; add a point to each obj"):
        derive_walked_masks(nothing, {}, cfg)
    found = derive_walked_masks(nothing | {"image_labels": []}, {}, cfg)
    assert found["masks"].shape == (0, 90, 120)


def test_three_lines_take_it_in_place_of_the_segmenter(shapes_root, tmp_path):
    config, points = tmp_path / "walked.yaml", shapes_root / "shapes" / "points_train.json"
    stages = "{walked_masks: , pseudo_labels: , mask_rcnn: }"
    config.write_text(f"_BASE_: {ROOT / 'configs' / 'points_photos.yaml'}\nSTAGES: {stages}\n")
    extra = [("DATA.TRAIN", str(points)), ("mask_rcnn.MODEL.TIMM.WEIGHTS", "")]
    words = {"config": config, "datasets": shapes_root, "output": tmp_path / "out", "extra": extra}
    done = train_net_here("--until-stage", "pseudo_labels", **words)
    assert done.returncode == 0, done.stderr[-3000:]
    labels = json.loads((tmp_path / "out" / "2_pseudo_labels" / "pseudo_labels.json").read_text())
    given = json.loads(points.read_text())["annotations"]
    assert len(labels["annotations"]) == len(given)
