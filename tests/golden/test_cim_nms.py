"""Test-time detections (cim_nms.npz)."""

import numpy as np
import pytest
import torch
from wsis.methods.cim.detections import DetectionOptions, detect


@pytest.mark.parametrize(
    ("scores", "prefix", "limit"),
    [("scores", "", 100), ("scores", "nolimit_", 0), ("tie_scores", "tie_", 100)],
)
def test_detections(arrays, scores, prefix, limit):
    boxes, scores = torch.from_numpy(arrays["boxes"]), torch.from_numpy(arrays[scores])
    found = detect(boxes, scores, DetectionOptions(limit=limit))
    counts = np.bincount(found.classes, minlength=scores.shape[1])
    np.testing.assert_array_equal(counts, arrays[f"{prefix}count"])
    np.testing.assert_array_equal(found.index, arrays[f"{prefix}index"])
    rows = torch.cat([boxes[found.index], found.scores[:, None]], dim=1)
    np.testing.assert_array_equal(rows, arrays[f"{prefix}dets"])


def test_best_box_of_each_class(arrays):
    boxes, scores = torch.from_numpy(arrays["boxes"]), torch.from_numpy(arrays["scores"])
    best = scores.argmax(dim=0)
    found = torch.cat([boxes[best], scores.amax(dim=0)[:, None]], dim=1)
    np.testing.assert_array_equal(found, arrays["corloc"])
