"""irnet_clusters: centroids and clusters of displacement fields, exactly."""

import numpy as np
import torch
from wsis.layers.components import connected_components
from wsis.layers.displacement import cluster_centroids, refine_centroids

THRESHOLD = 2.5


def test_clusters(golden):
    arrays = golden.load("irnet_clusters")
    for case in golden.text(arrays["cases"]):
        field = arrays[f"{case}_dp"]
        centroids = refine_centroids(torch.from_numpy(field))
        np.testing.assert_array_equal(centroids, arrays[f"{case}_centroids"], err_msg=case)
        weak, _ = connected_components(np.sqrt((field**2).sum(axis=0)) < THRESHOLD)
        np.testing.assert_array_equal(weak, arrays[f"{case}_weak_label"], err_msg=case)
        landed = weak[centroids[0], centroids[1]]
        np.testing.assert_array_equal(landed, arrays[f"{case}_label_at_centroid"], err_msg=case)
        clusters = cluster_centroids(torch.from_numpy(field), centroids, threshold=THRESHOLD)
        np.testing.assert_array_equal(clusters, arrays[f"{case}_map"], err_msg=case)
