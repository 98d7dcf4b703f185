"""irnet_end_to_end: one image from pixels to instance masks and semantic labels."""

import numpy as np
import pytest
import torch
from wsis.data.transforms import resize_image, scaled_size
from wsis.layers.crf import crf_labels
from wsis.methods.irnet.displacement import cluster_centroids, refine_centroids
from wsis.methods.irnet.labels import inter_pixel_label, seed_labels
from wsis.methods.irnet.random_walk import random_walk
from wsis.methods.irnet.roi_heads import IRNetROIHeads

from tests.golden.conftest import assert_close
from tests.golden.irnet_models import build_irnet
from tests.golden.test_irnet_cam_forward import build_camnet, camnet_cfg, to_tensor

SCALES = (1.0, 0.5, 1.5, 2.0)


@pytest.fixture(scope="module")
def cams(golden, arrays):
    """What our classifier makes of the image."""
    stored = {name: arrays[name] for name in ("multipliers",)}
    weights = golden.weights({**stored, "state_shapes": arrays["cam_state_shapes"]})
    model = build_camnet(camnet_cfg(len(weights["classifier.weight"])), weights).eval()
    height, width = arrays["image"].shape[:2]
    sample = {
        "images": [
            to_tensor(resize_image(arrays["image"], scaled_size((height, width), scale)))
            for scale in SCALES
        ],
        "image_labels": arrays["keys"].tolist(),
        "height": height,
        "width": width,
    }
    with torch.no_grad():
        return model([sample])[0]


@pytest.fixture(scope="module")
def result(golden, arrays, cams):
    """What our relation network makes of the image and our CAMs."""
    model = build_irnet(golden.weights({"state_shapes": arrays["irn_state_shapes"]})).eval()
    model.outputs = ("boundary", "instances", "semantic")
    background = float(arrays["thresholds_fg_bg_ins64"][2])
    model.roi_heads = IRNetROIHeads(instance_background=background, semantic_background=background)
    return model([{"image": to_tensor(arrays["image"]), "keys": cams["keys"], "cam": cams["cam"]}])[
        0
    ]


def test_cams(arrays, cams):
    assert cams["keys"].tolist() == arrays["keys"].tolist()
    assert_close(cams["cam"], arrays["cam"], 1e-4, "cam")
    assert_close(cams["high_res"], arrays["high_res"], 1e-3, "high_res")  # float16 in the file


def test_inter_pixel_label(arrays, cams):
    foreground, background = (float(v) for v in arrays["thresholds_fg_bg_ins64"][:2])
    high_res = np.asarray(cams["high_res"])
    for name, threshold in (("fg", foreground), ("bg", background)):
        assert (seed_labels(high_res, threshold) == arrays[f"{name}_seed"]).mean() >= 0.995, name
    label = inter_pixel_label(
        arrays["image"],
        arrays["keys"],
        high_res,
        refine=crf_labels,
        foreground_threshold=foreground,
        background_threshold=background,
    )
    assert (label == arrays["conf"]).mean() >= 0.99


def agreement(found, expected):
    """Share of pixels on which two partitions agree, whatever their numbering."""
    pairs, counts = np.unique(
        np.stack([found.ravel(), expected.ravel()]), axis=1, return_counts=True
    )
    shares = []
    for side in pairs:
        largest = [counts[side == label].max() for label in np.unique(side)]
        shares.append(sum(largest) / expected.size)
    return min(shares)


def painted(classes, masks):
    """Class + 1 of the first detection on a pixel, 0 where there is none."""
    result = np.zeros(masks.shape[1:], dtype=int)
    for label, mask in reversed(list(zip(classes, masks, strict=True))):
        result[mask] = int(label) + 1
    return result


def test_boundary_displacement_and_clusters(arrays, result):
    assert_close(result["boundary"][None], arrays["edge"], 2e-5, "edge")
    assert_close(result["displacement"], arrays["dp"], 2e-4, "dp")
    assert agreement(result["clusters"].numpy(), arrays["cluster_map"]) >= 0.995
    field = torch.from_numpy(arrays["dp"])
    centroids = refine_centroids(field)
    assert (centroids.numpy() == arrays["centroids"]).all(axis=0).mean() >= 0.995
    clusters = cluster_centroids(field, centroids)
    assert (clusters.numpy() == arrays["cluster_map"]).mean() >= 0.995


def test_walk(arrays):
    clusters = torch.from_numpy(arrays["cluster_map"]).long()
    indicator = torch.nn.functional.one_hot(clusters).permute(2, 0, 1)
    maps = (torch.from_numpy(arrays["cam"])[:, None] * indicator).flatten(0, 1)
    assert_close(random_walk(maps, torch.from_numpy(arrays["edge"][0])), arrays["rw"][:, 0], 2e-4)


def expected_masks(arrays):
    width = int(arrays["mask_shape"][-1])
    return np.unpackbits(arrays["mask_packed"], axis=-1)[..., :width].astype(bool)


def check_instances(arrays, found):
    np.testing.assert_array_equal(found.pred_classes, arrays["class"])
    assert_close(found.scores, arrays["score64"], 2e-4, "scores")
    expected = expected_masks(arrays)
    assert found.pred_masks.shape == expected.shape
    assert (found.pred_masks.numpy() == expected).mean() >= 0.995


def test_instances_and_semantic_labels(arrays, result):
    found = result["instances"]
    ours = painted(found.pred_classes.numpy(), found.pred_masks.numpy())
    theirs = painted(arrays["class"], expected_masks(arrays))
    assert (ours == theirs).mean() >= 0.995
    assert_close(found.scores.max(), arrays["score64"].max(), 2e-4, "highest score")
    assert (result["semantic"].numpy() == arrays["sem_seg"]).mean() >= 0.995


def test_instances_from_stored_maps(arrays):
    background = float(arrays["thresholds_fg_bg_ins64"][2])
    heads = IRNetROIHeads(instance_background=background, semantic_background=background)
    size = arrays["image"].shape[:2]
    maps = (torch.from_numpy(a) for a in (arrays["edge"][0], arrays["cam"], arrays["keys"]))
    clusters = torch.from_numpy(arrays["cluster_map"]).long()
    found = heads(*maps, clusters, (size, size))
    check_instances(arrays, found)
