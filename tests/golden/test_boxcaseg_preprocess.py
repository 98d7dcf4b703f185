"""boxcaseg_preprocess: crops, draws, resizing and normalisation of both kinds of samples."""

import re

import numpy as np
import pytest
import torch
from wsis.data.annotations import integer_box
from wsis.methods.boxcaseg.crops import box_sample, resize_crops, salient_sample
from wsis.methods.boxcaseg.meta_arch import BOX_NORMALIZATION, SALIENT_NORMALIZATION, normalize

from tests.golden.conftest import assert_close

TOLERANCE = 1e-5


def numbered(arrays, pattern):
    """The k of every array whose name matches, ascending."""
    found = (re.fullmatch(pattern, name) for name in arrays)
    return sorted(int(match[1]) for match in found if match)


def image_of(arrays, k, prefix=""):
    if prefix:
        return arrays["image_coco"]
    return arrays["image_" + "ab"[int(arrays["voc_box_image"][k]) - 1]]


def given_box(arrays, k, prefix=""):
    x, y, w, h = arrays[f"{prefix or 'voc_'}boxes_xywh"][k].tolist()
    return integer_box((x, y, x + w, y + h), size=image_of(arrays, k, prefix).shape[:2])


def is_weak(arrays, k):
    return bool(arrays.get(f"train_{k}_weak", True))


@pytest.mark.parametrize("prefix", ["", "coco_"])
def test_box_samples(arrays, prefix):
    size = int(arrays["sizes"][1])
    for k in numbered(arrays, prefix + r"train_(\d+)_img"):
        if not prefix and not is_weak(arrays, k):
            continue
        name = f"{prefix}train_{k}"
        box = given_box(arrays, k, prefix)
        assert list(box) == arrays[f"{name}_box"].tolist(), name
        image = image_of(arrays, k, prefix)
        pixels, label, crop = box_sample(image, box, draws=arrays[f"{name}_draws"], size=size)
        assert list(crop) == arrays[f"{name}_crop"].tolist(), name
        np.testing.assert_array_equal(label[None], arrays[f"{name}_label"])
        found = normalize(pixels, **BOX_NORMALIZATION)
        assert_close(found, arrays[f"{name}_img"], TOLERANCE, name)


def test_salient_samples(arrays):
    middle, size = int(arrays["sizes"][0]), int(arrays["sizes"][1])
    salient = [k for k in numbered(arrays, r"train_(\d+)_img") if not is_weak(arrays, k)]
    assert salient
    for index, k in enumerate(salient):
        flip, top, left = arrays[f"train_{k}_draws"].tolist()
        mask = arrays[f"salm_{index}"]
        pixels, label = salient_sample(
            arrays[f"sal_{index}"],
            mask if mask.ndim == 2 else mask[..., 0],
            offset=(int(top), int(left)),
            resized=middle,
            size=size,
            flips=(flip >= 0.5, False),
        )
        np.testing.assert_array_equal(label[None], arrays[f"train_{k}_label"])
        found = normalize(pixels, **SALIENT_NORMALIZATION)
        assert_close(found, arrays[f"train_{k}_img"], TOLERANCE, f"train_{k}")


@pytest.mark.parametrize("prefix", ["", "coco_"])
def test_inference_crops(arrays, prefix):
    side = int(arrays["sizes"][2])
    for k in numbered(arrays, prefix + r"test_(\d+)_img"):
        name = f"{prefix}test_{k}"
        box = given_box(arrays, k, prefix)
        assert list(box) == arrays[f"{name}_box"].tolist()
        image = torch.from_numpy(image_of(arrays, k, prefix).transpose(2, 0, 1).copy())
        crop = resize_crops(image, torch.tensor([box]), size=(side, side))[0]
        found = normalize(crop, **BOX_NORMALIZATION)
        assert_close(found, arrays[f"{name}_img"], TOLERANCE, name)


def test_the_published_sizes(arrays):
    box = given_box(arrays, 0)
    image = image_of(arrays, 0)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    large = resize_crops(tensor, torch.tensor([box]), size=(320, 320))[0]
    step = 320 // arrays["test320_0_img_sub"].shape[-1]
    found = normalize(large, **BOX_NORMALIZATION)[:, ::step, ::step]
    assert_close(found, arrays["test320_0_img_sub"], TOLERANCE, "test320")
    pixels, label, _ = box_sample(image, box, draws=arrays["train_0_draws"], size=288)
    step = 288 // arrays["train288_0_img_sub"].shape[-1]
    found = normalize(pixels, **BOX_NORMALIZATION)[:, ::step, ::step]
    assert_close(found, arrays["train288_0_img_sub"], TOLERANCE, "train288")
    np.testing.assert_array_equal(label[None, ::step, ::step], arrays["train288_0_label_sub"])
