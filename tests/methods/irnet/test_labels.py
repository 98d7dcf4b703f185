"""Inter-pixel labels by hand."""

import numpy as np
import pytest
from wsis.errors import DataError
from wsis.methods.irnet.labels import inter_pixel_label, seed_labels

IMAGE = np.zeros((1, 4, 3), dtype=np.uint8)
MAPS = np.array([[[0.9, 0.2, 0.0, 0.3]], [[0.1, 0.25, 0.05, 0.3]]], dtype=np.float32)


def test_thresholds_without_a_crf():
    label = inter_pixel_label(
        IMAGE, np.array([4, 11]), MAPS, refine=None, foreground_threshold=0.28
    )
    assert label.dtype == np.uint8
    assert label.tolist() == [[5, 255, 0, 5]]  # ties: constant first, then the lower class


def test_foreground_wins_over_confident_background():
    def refine(image, labels, num_labels):
        assert num_labels == 3
        return np.array([[[2, 0, 0, 1]], [[0, 0, 1, 0]]])

    label = inter_pixel_label(IMAGE, np.array([4, 11]), MAPS, refine=refine)
    assert label.tolist() == [[12, 0, 255, 5]]


def test_no_class_is_all_background_and_needs_no_crf():
    label = inter_pixel_label(IMAGE, np.zeros(0), np.zeros((0, 1, 4)), refine=pytest.fail)
    assert label.tolist() == [[0, 0, 0, 0]]


def test_half_precision_maps():
    assert (
        seed_labels(MAPS.astype(np.float16), 0.3).tolist()
        == seed_labels(MAPS.astype(np.float16).astype(np.float32), 0.3).tolist()
    )


def test_wrong_sizes_and_class_ids():
    with pytest.raises(DataError, match="run --stage cam again"):
        inter_pixel_label(IMAGE, np.array([1]), MAPS, refine=None)
    with pytest.raises(DataError, match="class ids"):
        inter_pixel_label(IMAGE, np.array([1, 254]), MAPS, refine=None)
