import cv2
import numpy as np
import pytest
from wsis.evaluation.box_masks import paired_iou
from wsis.layers.box_baselines import grabcut_boxes


@pytest.mark.parametrize("scale", [1, 8])  # at 8 the window is shrunk
def test_grabcut_finds_a_clear_object(scale):
    image = np.full((60 * scale, 70 * scale, 3), 30, dtype=np.uint8)
    cv2.circle(image, (35 * scale, 30 * scale), 15 * scale, (220, 60, 40), -1)
    disc = image[..., 0] == 220
    found = grabcut_boxes(image, scale * np.array([[18, 13, 53, 48]]))
    assert paired_iou(found, disc[None])[0] > 0.9
    np.testing.assert_array_equal(found, grabcut_boxes(image, scale * np.array([[18, 13, 53, 48]])))


def test_grabcut_without_background_or_pixels_is_the_filled_box():
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    found = grabcut_boxes(image, np.array([[0, 0, 70, 60], [3, 3, 5, 5]]))
    assert found[0].all()
    assert found[1].sum() == 4
