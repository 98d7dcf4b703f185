"""irnet_instances: displacement, boundary and CAM to instances and semantic labels."""

import numpy as np
import torch
from wsis.methods.irnet.displacement import cluster_centroids, refine_centroids
from wsis.methods.irnet.random_walk import random_walk
from wsis.methods.irnet.roi_heads import IRNetROIHeads

from tests.golden.conftest import assert_close


def inputs(arrays):
    """Boundary, CAM, class ids; sizes of the image and of the result."""
    maps = (torch.from_numpy(a) for a in (arrays["edge"][0], arrays["cam"], arrays["keys"]))
    size = tuple(int(side) for side in arrays["image_size"])
    return (*maps, (size, size))


def test_centroids_and_clusters(arrays):
    field = torch.from_numpy(arrays["dp"])
    for name, expected in arrays.items():
        if name.startswith("centroids"):
            steps = int(name.partition("_u")[2] or 300)
            equal = refine_centroids(field, num_steps=steps).numpy() == expected
            assert equal.all(axis=0).mean() >= 0.999, name
    clusters = cluster_centroids(field, torch.from_numpy(arrays["centroids"]).long())
    np.testing.assert_array_equal(clusters, arrays["cluster_map"])
    assert int(clusters.max()) + 1 == int(arrays["n_clusters"])


def test_walk(arrays):
    clusters = torch.from_numpy(arrays["cluster_map"]).long()
    indicator = torch.nn.functional.one_hot(clusters, int(arrays["n_clusters"])).permute(2, 0, 1)
    maps = (torch.from_numpy(arrays["cam"])[:, None] * indicator).flatten(0, 1)
    walked = random_walk(maps, torch.from_numpy(arrays["edge"][0]))
    assert_close(walked, arrays["rw"][:, 0], 1e-4, "rw")


def test_instances(arrays):
    boundary, cam, keys, sizes = inputs(arrays)
    field = torch.from_numpy(arrays["dp"])
    clusters = cluster_centroids(field, refine_centroids(field))
    found = IRNetROIHeads()(boundary, cam, keys, clusters, sizes)
    assert_close(found.scores, arrays["score64"], 2e-4, "scores")
    np.testing.assert_array_equal(found.pred_classes, arrays["class"])
    width = int(arrays["mask_shape"][-1])
    expected = np.unpackbits(arrays["mask_packed"], axis=-1)[..., :width].astype(bool)
    assert found.pred_masks.shape == expected.shape
    assert (found.pred_masks.numpy() == expected).mean() >= 0.9995


def test_semantic_labels(arrays):
    found = IRNetROIHeads().semantic(*inputs(arrays))
    assert (found.numpy() == arrays["sem_seg"]).mean() >= 0.9995
