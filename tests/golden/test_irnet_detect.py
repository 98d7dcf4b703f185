"""irnet_detect: score maps to detections."""

import numpy as np
from wsis.layers.components import detect_components, winning_channels

from tests.golden.conftest import assert_close


def test_detections(arrays):
    scores = arrays["rw_up"]
    winners = winning_channels(scores, float(arrays["bg_threshold"]))
    np.testing.assert_array_equal(winners + 1, arrays["argmax"])
    found = detect_components(winners, scores.max(axis=0), min_area=float(arrays["min_area64"]))
    assert_close(found.scores, arrays["score64"], 1e-6, "scores")
    np.testing.assert_array_equal(arrays["channel_class"][found.channels], arrays["class"])
    shape = tuple(arrays["mask_shape"])
    expected = np.unpackbits(arrays["mask_packed"], axis=-1)[..., : shape[2]].astype(bool)
    np.testing.assert_array_equal(found.masks, expected)
