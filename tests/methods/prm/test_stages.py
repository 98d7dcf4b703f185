import numpy as np
import torch
from wsis.methods.prm.roi_heads import PRMROIHeads
from wsis.methods.prm.stages import peak_instances_artifact
from wsis.modeling.peak_artifact import response_artifact, small_maps

from tests.methods.prm.test_roi_heads import SIZE, discs, found_in, run


def test_artifact_of_an_image():
    masks = discs((6, 6), (17, 22))
    found = found_in(masks, [1, 0], [40.0, 35.0])
    output = {"instances": run(PRMROIHeads(), found, masks), "responses": found}
    arrays = peak_instances_artifact(output)
    assert arrays["masks"].shape == (2, *SIZE)
    assert arrays["map_classes"].tolist() == [0, 1]
    assert arrays["class_maps"].shape == (2, 6, 6)
    assert arrays["responses"].max(axis=(1, 2)).tolist() == [1, 1]
    np.testing.assert_allclose(arrays["peak_places"], [[4.5 / 24, 4.5 / 30]] * 2, rtol=1e-6)
    assert arrays["peak_values"].tolist() == [40, 35]
    assert arrays["candidates"].tolist() == [[1, 5], [0, 5]]
    assert {value.dtype for value in arrays.values()}.isdisjoint({np.dtype(object)})


def test_artifact_without_peaks():
    arrays = response_artifact(found_in(discs((6, 6))[:0], [], []))
    assert arrays["responses"].shape == (0, *SIZE)
    assert arrays["class_maps"].shape == (0, 6, 6)
    assert arrays["candidates"].shape == (0, 2)


def test_small_maps_are_means():
    maps = torch.rand(2, 30, 50)
    small = small_maps(maps, side=20)
    assert small.shape == (2, 10, 17)
    np.testing.assert_allclose(small[0, 0, 0], maps[0, :3, :3].mean(), atol=1e-3)
    assert small_maps(maps, side=50).shape == (2, 30, 50)


def test_maps_beyond_half_precision_stay_finite():
    maps = torch.full((1, 4, 4), 65504.0)
    assert small_maps(maps).dtype == np.float16
    large = small_maps(maps * -2)
    assert large.dtype == np.float32
    assert large.min() == -131008
    assert small_maps(maps[:0]).dtype == np.float16
