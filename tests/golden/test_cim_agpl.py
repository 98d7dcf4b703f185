"""Class peaks and the clusters around them (cim_agpl.npz)."""

import numpy as np
import pytest
import torch
from wsis.layers.peaks import peak_stimulation, upsample_maps
from wsis.layers.regions import Regions
from wsis.methods.cim.clusters import class_peaks, cluster_proposals, peaks_to_pixels

from tests.golden.cim_cases import clusters_of, masks_of


@pytest.fixture(scope="module")
def maps(arrays):
    raw = torch.from_numpy(arrays["crm"])
    return upsample_maps(raw, arrays["up_class"].shape[0] // raw.shape[2])


def assert_clusters(found, matrix):
    ids, classes = clusters_of(matrix)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.classes, classes)


def test_peaks(arrays, maps):
    np.testing.assert_allclose(
        maps[0, arrays["labels"][0]], arrays["up_class"], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(maps.sum(dim=(2, 3)), arrays["up_sum"], rtol=1e-5, atol=1e-2)
    scores, _ = peak_stimulation(maps)
    np.testing.assert_allclose(scores, arrays["aggregation"], rtol=1e-5, atol=1e-5)
    peaks, values = class_peaks(maps[0], torch.from_numpy(arrays["labels"]))
    order = arrays["peak_order"]
    np.testing.assert_array_equal(peaks, arrays["peaks"][order][:, 1:])
    np.testing.assert_allclose(values, arrays["peak_score"][order], rtol=1e-5)


def test_clusters_of_peaks(arrays, maps):
    regions = Regions.from_masks(masks_of(arrays))
    peaks = arrays["peaks"][arrays["peak_order"]]
    pixels = peaks_to_pixels(peaks[:, 2:], maps.shape[2:], regions.size)
    assert_clusters(cluster_proposals(regions, pixels, peaks[:, 1]), arrays["mat"])


def test_clusters_of_points(arrays):
    regions = Regions.from_masks(masks_of(arrays))
    for name, matrix, keep in (
        ("points", "mat_points", slice(None)),
        ("uncovered_points", "mat_points_uncovered", arrays["uncovered_keep"]),
    ):
        points = arrays[name][:, [1, 0]].astype(int)
        classes = arrays[name][:, 2].astype(int)
        assert_clusters(cluster_proposals(regions[keep], points, classes), arrays[matrix])


def test_nothing_found(arrays):
    regions = Regions.from_masks(masks_of(arrays))
    nothing = np.zeros((0, 2), dtype=int)
    for matrix in ("mat_none", "mat_points_none"):
        assert_clusters(cluster_proposals(regions, nothing, nothing[:, 0]), arrays[matrix])
