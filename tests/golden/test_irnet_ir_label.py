"""irnet_ir_label: CAM to inter-pixel label, given the stored CRF maps."""

import numpy as np
import pytest
from wsis.layers.crf import crf_labels
from wsis.methods.irnet.labels import inter_pixel_label, seed_labels


def test_seeds(arrays):
    for name, threshold in zip(("fg", "bg"), arrays["thresholds"], strict=True):
        np.testing.assert_array_equal(
            seed_labels(arrays["high_res"], threshold), arrays[f"{name}_seed"]
        )


@pytest.mark.parametrize("suffix", ["", "_one"])
def test_labels_from_stored_crf_maps(arrays, suffix):
    count = 1 if suffix else len(arrays["keys"])

    def stored(image, labels, num_labels):
        assert labels.shape == (2, *image.shape[:2])
        assert num_labels == count + 1
        return np.stack([arrays[f"fg_crf{suffix}"], arrays[f"bg_crf{suffix}"]])

    foreground, background = (float(value) for value in arrays["thresholds"])
    found = inter_pixel_label(
        arrays["image"],
        arrays["keys"][:count],
        arrays["high_res"][:count],
        refine=stored,
        foreground_threshold=foreground,
        background_threshold=background,
    )
    np.testing.assert_array_equal(found, arrays[f"conf{suffix}"])


@pytest.mark.parametrize("suffix", ["", "_one"])
def test_labels_with_our_crf(arrays, suffix):
    count = 1 if suffix else len(arrays["keys"])
    foreground, background = (float(value) for value in arrays["thresholds"])
    found = inter_pixel_label(
        arrays["image"],
        arrays["keys"][:count],
        arrays["high_res"][:count],
        refine=crf_labels,
        foreground_threshold=foreground,
        background_threshold=background,
    )
    assert (found == arrays[f"conf{suffix}"]).mean() >= 0.995
