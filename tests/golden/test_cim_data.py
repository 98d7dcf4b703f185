"""Images, boxes and their flips as the network gets them (cim_data.npz)."""

import numpy as np
from wsis.data.transforms import rescale_image
from wsis.methods.cim.mappers import clip_boxes, flip_boxes

from tests.golden.cim_cases import mapper_of

MEAN, STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]


def assert_image(image, expected):
    """Equal but for isolated pixels that another OpenCV rounds to the next grey level."""
    actual = (image.astype(np.float64) / 255 - MEAN) / STD
    assert actual.shape == expected.shape
    wrong = np.abs(actual - expected)
    assert wrong.max() <= 0.0176
    assert (wrong > 2e-6).mean() < 1e-3


def test_boxes(arrays):
    boxes = clip_boxes(arrays["boxes_raw"], arrays["image"].shape[:2])
    np.testing.assert_array_equal(boxes, arrays["boxes"])
    flipped = flip_boxes(boxes, arrays["image"].shape[1])
    np.testing.assert_array_equal(flipped, arrays["flipped_boxes"])
    np.testing.assert_array_equal(arrays["masks7"][:, :, ::-1], arrays["flipped_masks7"])


def test_training_views(arrays):
    reader = mapper_of(arrays["train_scales"].tolist())
    for k, flipped in enumerate(arrays["train_flipped"]):
        np.random.seed(int(arrays["train_seed"][k]))  # noqa: NPY002
        side = reader.draw_side()
        assert side == arrays["train_picked"][k]
        image, found = reader.view(
            arrays["image"], arrays["boxes"], arrays["masks7"], side, bool(flipped)
        )
        assert_image(image.numpy(), arrays[f"train{k}_data"])
        boxes = found.proposal_boxes.tensor
        np.testing.assert_allclose(boxes, arrays[f"train{k}_rois"][:, 1:], rtol=0, atol=2e-5)
        masks = arrays["masks7"][:, :, ::-1] if flipped else arrays["masks7"]
        np.testing.assert_array_equal(found.proposal_crops, masks)


def test_inference_view(arrays):
    side = int(arrays["test_scale"])
    scale = side / max(arrays["image"].shape[:2])
    np.testing.assert_allclose(scale, arrays["test_im_scale"][0], rtol=1e-6)
    image = rescale_image(arrays["image"], scale)
    assert_image(image.transpose(2, 0, 1), arrays["test_data"])
    boxes = arrays["boxes"] * scale
    np.testing.assert_allclose(boxes, arrays["test_rois"][:, 1:], rtol=0, atol=2e-5)
