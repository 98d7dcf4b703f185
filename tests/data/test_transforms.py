import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image
from wsis.data.instance_mapper import SidesKept
from wsis.data.transforms import (
    Canvas,
    Sizing,
    random_canvas,
    resize_image,
    resize_label,
    ruled_size,
    scaled_size,
)


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        ((75, 100), 0.5, (38, 50)),  # 37.5 goes to the even 38
        ((77, 101), 0.5, (38, 50)),  # 38.5 to 38, 50.5 to 50
        ((75, 100), 1.0, (75, 100)),
        ((1, 40), 0.5, (1, 20)),  # 0.5 would be 0
    ],
)
def test_scaled_size(size, factor, expected):
    assert scaled_size(size, factor) == expected


@pytest.mark.parametrize(
    ("size", "rule", "expected"),
    [
        ((75, 100), (0, 0), (75, 100)),
        ((75, 100), (32, 1), (65, 97)),
        ((90, 113), (32, 1), (97, 129)),
        ((1, 8), (32, 1), (33, 33)),
        ((97, 97), (32, 1), (97, 97)),
        ((70, 90), (16, 0), (64, 96)),
    ],
)
def test_ruled_size(size, rule, expected):
    assert ruled_size(size, rule) == expected


def test_working_size():
    image = np.zeros((75, 100, 3), dtype=np.uint8)
    assert Sizing().apply(image) is image
    assert Sizing(50).scaled((75, 100)) == (38, 50)
    assert Sizing(50, (32, 1)).apply(image).shape == (33, 65, 3)
    assert Sizing(200, (32, 1)).apply(image, scale=0.5).shape == (65, 97, 3)
    assert Sizing(0, (32, 1)).apply(image, scale=2).shape == (161, 193, 3)


def test_resizing():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert resize_image(image, (9, 7)) is image
    expected = np.asarray(Image.fromarray(image).resize((14, 5), Image.BICUBIC))
    assert np.array_equal(resize_image(image, (5, 14)), expected)
    label = np.array([[0, 255], [3, 0]], dtype=np.uint8)
    assert resize_label(label, (4, 2)).tolist() == [[0, 255], [0, 255], [3, 0], [3, 0]]


def test_top_left():
    image = np.arange(6).reshape(2, 3).astype(np.uint8)
    assert Canvas(3).paste(image, 9).tolist() == [[0, 1, 2], [3, 4, 5], [9, 9, 9]]
    assert Canvas(1).paste(image, 9).tolist() == [[0]]


def test_random_canvas_pads_one_axis_and_crops_the_other():
    image = np.arange(1, 11, dtype=np.uint8).reshape(2, 5)
    seen = set()
    np.random.seed(0)  # noqa: NPY002
    for _ in range(200):
        canvas = random_canvas((2, 5), 3).paste(image, 0)
        assert canvas.shape == (3, 3)
        assert canvas.dtype == np.uint8
        row = 0 if canvas[0].any() else 1
        column = int(canvas[row, 0]) - 1
        expected = np.zeros((3, 3), np.uint8)
        expected[row : row + 2] = image[:, column : column + 3]
        assert np.array_equal(canvas, expected)
        seen.add((row, column))
    assert seen == {(r, c) for r in range(2) for c in range(3)}  # every place occurs


def test_canvas_of_a_colour():
    image = np.full((1, 1, 3), 7, dtype=np.uint8)
    fill = np.array([1.5, 2.5, 3.5], dtype=np.float32)
    canvas = Canvas(2).paste(image, fill)
    assert canvas.dtype == np.float32
    assert canvas[0, 0].tolist() == [7, 7, 7]
    assert canvas[1, 1].tolist() == [1.5, 2.5, 3.5]


def test_exact_fit_is_the_image():
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert np.array_equal(random_canvas((4, 4), 4).paste(image, 0), image)


def test_stretching_gives_one_size_to_all():
    sizing = Sizing(longer_side=50, stretch=(48, 64))
    for size in ((10, 90), (200, 31), (48, 64)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        assert sizing.apply(image).shape == (48, 64, 3)
        assert sizing.apply(image, scale=0.5).shape == (24, 32, 3)
    assert sizing.apply(image) is image


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3000, 6), (1333, 3)), ((3000, 1), (1333, 1)), ((1, 3000), (1, 1333)), ((1, 1), (800, 800))],
)
def test_a_thin_image_keeps_its_sides(size, expected):
    augment = SidesKept(T.ResizeShortestEdge(800, 1333, "choice"))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = augment(T.AugInput(image)).apply_image(image)
    assert found.shape == (*expected, 3)
    assert found.mean() == pytest.approx(image.mean(), abs=10)


@pytest.mark.parametrize("kind", ["relative", "relative_range", "absolute", "absolute_range"])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2)])
def test_a_crop_keeps_a_pixel(kind, size):
    crop_size = (0.2, 0.2) if kind.startswith("relative") else (1, 20)
    augment = SidesKept(T.RandomCrop(kind, crop_size))
    image = np.arange(3 * size[0] * size[1], dtype=np.uint8).reshape(*size, 3)
    for _ in range(20):
        found = augment(T.AugInput(image)).apply_image(image)
        assert 1 <= found.shape[0] <= size[0]
        assert 1 <= found.shape[1] <= size[1]


def test_other_augmentations_are_what_they_were():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    flip = SidesKept(T.RandomFlip(prob=1.0))(T.AugInput(image))
    assert np.array_equal(flip.apply_image(image), image[:, ::-1])
    resize = T.ResizeShortestEdge(8, 100, "choice")
    transform = SidesKept(resize)(T.AugInput(image))
    assert transform.apply_image(image).shape == (8, 16, 3)
