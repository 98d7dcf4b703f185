"""Boxes, 7x7 crops and overlaps of proposals (cim_pre.npz)."""

import numpy as np
from wsis.layers.regions import Regions
from wsis.methods.cim.overlaps import overlaps_of_regions

from tests.golden.cim_cases import masks_of


def test_boxes_crops_and_overlaps(arrays):
    regions = Regions.from_masks(masks_of(arrays))
    np.testing.assert_array_equal(regions.boxes, arrays["boxes"])
    np.testing.assert_array_equal(regions.crops(arrays["masks7"].shape[1]), arrays["masks7"])
    overlaps = overlaps_of_regions(regions)
    np.testing.assert_array_equal(overlaps.iou, arrays["iou"])
    np.testing.assert_array_equal(overlaps.containment, arrays["asy_iou"])
