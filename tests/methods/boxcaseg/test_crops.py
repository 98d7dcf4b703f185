import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.boxcaseg import plain_crop
from wsis.data.annotations import integer_box
from wsis.methods.boxcaseg.crops import (
    add_neighbours,
    box_sample,
    nearest_index,
    object_sample,
    resize_crops,
    resize_nearest,
    resize_weights,
    salient_sample,
    shaken_crop,
)


@pytest.mark.parametrize("size", [(7, 7), (9, 20), (40, 5), (33, 64), (1, 1)])
def test_against_scipy(size):
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 50, 40], [3, 5, 17, 36], [10, 10, 11, 11], [49, 0, 50, 40]])
    found = resize_crops(image, boxes, size=size)
    assert found.shape == (4, 3, *size)
    for one, (x0, y0, x1, y1) in zip(found, boxes.tolist(), strict=True):
        expected = plain_crop(image[:, y0:y1, x0:x1].permute(1, 2, 0).numpy(), size)
        np.testing.assert_allclose(one.permute(1, 2, 0), expected, atol=2e-3)


def test_nothing_to_resize_changes_nothing():
    image = torch.rand(1, 6, 8)
    found = resize_crops(image, torch.tensor([[1, 2, 7, 6]]), size=(4, 6))
    torch.testing.assert_close(found[0], image[:, 2:6, 1:7])


def test_zeros_outside_darken_the_rim_before_the_clip():
    weights = resize_weights(2, 4)
    expected = [[0.75, 0], [0.75, 0.25], [0.25, 0.75], [0, 0.75]]
    torch.testing.assert_close(weights, torch.tensor(expected))
    white = torch.full((3, 5, 5), 200.0)
    assert (resize_crops(white, torch.tensor([[0, 0, 5, 5]]), size=(8, 8)) == 200).all()


def test_no_boxes():
    assert resize_crops(torch.rand(3, 4, 4), torch.zeros(0, 4).long(), size=(2, 2)).shape[0] == 0


@pytest.mark.parametrize("box", [[0, 0, 0, 3], [2, 2, 1, 3], [-1, 0, 3, 3], [0, 0, 9, 3]])
def test_bad_boxes(box):
    with pytest.raises(ValueError, match="no area or leaves its image of 8 x 6"):
        resize_crops(torch.rand(3, 6, 8), torch.tensor([box]), size=(4, 4))


def test_nearest():
    assert nearest_index(4, 2).tolist() == [1, 3]
    assert nearest_index(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_index(3, 2).tolist() == [0, 2]
    label = torch.arange(6).view(2, 3)
    assert resize_nearest(label, size=(4, 3)).tolist() == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2


def test_shaken_crop_by_hand():
    # Half extents 10 and 20, centre (30, 40) moved to (32.5, 40), factors 1 and 0.5.
    assert shaken_crop((20, 20, 40, 60), (0.25, 0, 1, 0.5), size=(100, 100)) == (22, 30, 42, 50)
    # The last row and column are never used.
    assert shaken_crop((0, 0, 10, 10), (0, 0, 1.5, 1.5), size=(10, 10)) == (0, 0, 9, 9)


boxes = st.tuples(*(st.integers(0, 39) for _ in range(4))).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1)
)
draws = st.tuples(*[st.floats(-0.25, 0.25)] * 2, *[st.floats(0.5, 1.5)] * 2)


@settings(max_examples=200, deadline=None)
@given(boxes, draws)
def test_a_shaken_crop_is_never_empty(box, draw):
    x0, y0, x1, y1 = shaken_crop(box, draw, size=(40, 40))
    assert 0 <= x0 < x1 <= 40
    assert 0 <= y0 < y1 <= 40


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.floats(0, 39.5)] * 2, *[st.floats(0.01, 40)] * 2), st.booleans())
def test_whole_boxes_lie_inside(box, outwards):
    x, y, w, h = box
    given_box = (x, y, min(x + w, 40), min(y + h, 40))
    x0, y0, x1, y1 = integer_box(given_box, size=(40, 40), outwards=outwards)
    assert 0 <= x0 < x1 <= 40
    assert 0 <= y0 < y1 <= 40
    if outwards:
        assert x0 <= given_box[0]
        assert x1 >= given_box[2]


def test_whole_boxes_by_hand():
    assert integer_box((3.7, 2.2, 9.6, 2.9), size=(20, 20)) == (3, 2, 8, 3)
    assert integer_box((3.7, 2.2, 9.6, 2.9), size=(20, 20), outwards=True) == (3, 2, 10, 3)
    assert integer_box((3, 2, 9, 8), size=(20, 20), outwards=True) == (3, 2, 9, 8)
    # 10.4 + 5 - 10.4 is 4.999..., which is 5.
    assert integer_box((10.4, 0, 10.4 + 5, 4), size=(20, 20)) == (10, 0, 15, 4)


def test_box_label_is_the_box_seen_in_the_crop():
    image = np.full((30, 40, 3), 7, dtype=np.uint8)
    pixels, label, crop = box_sample(image, (10, 10, 20, 20), draws=(0, 0, 1.5, 1.5), size=15)
    assert crop == (7, 7, 22, 22)
    assert pixels.shape == (3, 15, 15)
    assert (pixels == 7).all()
    expected = torch.zeros(15, 15)
    expected[3:13, 3:13] = 1
    torch.testing.assert_close(label, expected)


def test_a_crop_inside_the_box_is_all_object():
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    _, label, _ = box_sample(image, (0, 0, 30, 30), draws=(0, 0, 0.5, 0.5), size=8)
    assert (label == 1).all()


def salient(**options):
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3) // 4
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[2:6, 3:9] = 128
    given = {"offset": (0, 0), "resized": 16, "size": 12} | options
    return image, mask, salient_sample(image, mask, **given)


def test_salient_crop_is_stretched_to_its_maximum():
    image, mask, (pixels, label) = salient(offset=(1, 2))
    part = image[1:13, 2:14].transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_allclose(pixels, part * 255 / part.max(), rtol=1e-6)
    np.testing.assert_array_equal(label, mask[1:13, 2:14] / 128)
    _, _, (pixels, _) = salient(offset=(1, 2), stretch=False)
    np.testing.assert_array_equal(pixels, part)


def test_flips_before_the_crop():
    image, mask, (pixels, label) = salient(flips=(True, True), stretch=False)
    turned = image[::-1, ::-1][:12, :12]
    np.testing.assert_array_equal(pixels, turned.transpose(2, 0, 1))
    np.testing.assert_array_equal(label > 0, mask[::-1, ::-1][:12, :12] > 0)


def test_a_dark_image_and_a_crop_without_object():
    image, mask = np.zeros((16, 16, 3), dtype=np.uint8), np.zeros((16, 16), dtype=np.uint8)
    mask[0, 0] = 255
    pixels, label = salient_sample(image, mask, offset=(4, 4), resized=16, size=8)
    assert not pixels.any()
    assert not label.any()


def test_a_crop_around_a_salient_object():
    image = np.full((30, 40, 3), 9, dtype=np.uint8)
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[10:20, 10:20] = 200
    mask[10:14, 10:14] = 0
    mask[10, 12] = mask[12, 10] = 200
    pixels, label = object_sample(image, mask, draws=(0, 0, 1.5, 1.5), size=15)
    assert (pixels == 9).all()
    np.testing.assert_array_equal(label, mask[7:22, 7:22] / 200)


def test_neighbours_are_background():
    images = torch.stack([torch.full((3, 20, 20), float(i)) for i in range(6)])
    labels = torch.zeros(6, 20, 20)
    labels[:, 5:15, 5:15] = 1
    chosen = torch.tensor([True, True, False, True, True, False])
    in_front = behind = 0
    for seed in range(10):
        torch.manual_seed(seed)
        found, targets = add_neighbours(images, labels, chosen, probability=1.0)
        for row in range(6):
            strange = (found[row] != images[row])[0]
            assert set(found[row][:, strange].unique().tolist()) <= {0.0, 1.0, 3.0, 4.0} - {row}
            assert not targets[row][strange].any()
            assert torch.equal(targets[row][~strange], labels[row][~strange])
            assert chosen[row] or not strange.any()
            in_front += int((strange & (labels[row] > 0)).any())
            behind += int(strange.any() and not (strange & (labels[row] > 0)).any())
    assert in_front > 1
    assert behind > 1
    assert images[0].unique().tolist() == [0]


def test_neighbours_need_two():
    images, labels = torch.rand(3, 3, 8, 8), torch.ones(3, 8, 8)
    for chosen, probability in (([True, False, False], 1.0), ([True] * 3, 0.0)):
        found, targets = add_neighbours(
            images, labels, torch.tensor(chosen), probability=probability
        )
        assert found is images
        assert targets is labels
