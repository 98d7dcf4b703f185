"""irnet_clusters: centroids and clusters of displacement fields, exactly."""

import numpy as np
import torch
from wsis.config import get_wsis_cfg
from wsis.layers.components import connected_components
from wsis.methods.irnet.displacement import cluster_centroids, refine_centroids


def setting(arrays, name, default):
    """A parameter of the file, or the method's own where the file leaves it out."""
    return arrays[name].item() if name in arrays else default


def test_clusters(golden):
    arrays, keys = golden.load("irnet_clusters"), get_wsis_cfg().MODEL.IRNET
    threshold = float(setting(arrays, "threshold", keys.CLUSTER_THRESHOLD))
    steps = int(setting(arrays, "num_steps", keys.REFINEMENT_STEPS))
    for case in golden.text(arrays["cases"]):
        field = arrays[f"{case}_dp"]
        centroids = refine_centroids(torch.from_numpy(field), num_steps=steps)
        np.testing.assert_array_equal(centroids, arrays[f"{case}_centroids"], err_msg=case)
        weak, _ = connected_components(np.sqrt((field**2).sum(axis=0)) < threshold)
        np.testing.assert_array_equal(weak, arrays[f"{case}_weak_label"], err_msg=case)
        landed = weak[centroids[0], centroids[1]]
        np.testing.assert_array_equal(landed, arrays[f"{case}_label_at_centroid"], err_msg=case)
        clusters = cluster_centroids(torch.from_numpy(field), centroids, threshold=threshold)
        np.testing.assert_array_equal(clusters, arrays[f"{case}_map"], err_msg=case)
