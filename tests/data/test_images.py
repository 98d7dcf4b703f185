"""Every kind of image file becomes RGB; damaged ones are named."""

import numpy as np
import pytest
from PIL import Image
from wsis.data import images
from wsis.data.images import read_dataset_image, read_image, read_image_size, read_label_map
from wsis.errors import DataError

GRID = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40  # 2 rows, 3 columns, 0..200


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def test_grey_is_repeated(tmp_path):
    image = read_image(save(tmp_path / "a.png", GRID))
    assert image.shape == (2, 3, 3)
    assert image.dtype == np.uint8
    assert (image == GRID[:, :, None]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK"])
def test_other_modes(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    image = read_image(save(tmp_path / f"a.{suffix}", GRID, mode))
    assert (image == GRID[:, :, None]).all()


def test_black_and_white(tmp_path):
    image = read_image(save(tmp_path / "a.png", GRID > 100))
    assert (image[..., 0] == np.where(GRID > 100, 255, 0)).all()


def test_16_bit_uses_the_high_byte(tmp_path):
    wide = GRID.astype(np.uint16) * 256 + 7
    assert (read_image(save(tmp_path / "a.png", wide))[..., 1] == GRID).all()


def test_32_bit_integers_hold_8_or_16_bits(tmp_path):
    assert (read_image(save(tmp_path / "a.tif", GRID.astype(np.int32)))[..., 0] == GRID).all()
    wide = GRID.astype(np.int32) * 256
    assert (read_image(save(tmp_path / "b.tif", wide))[..., 0] == GRID).all()


def test_floating_point_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", GRID.astype(np.float32))
    with pytest.raises(DataError, match=r"a\.tif.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_detectron2(tmp_path, orientation):
    from detectron2.data.detection_utils import read_image as stock

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", GRID, "RGB", exif=exif)
    ours = read_image(path)
    np.testing.assert_array_equal(ours, stock(str(path), "RGB"))
    assert read_image_size(path) == ours.shape[:2]


def test_truncated_jpeg_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "cut.jpg", noise)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\xff" * 40])
def test_no_image_at_all(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png"):
        read_image(path)


def test_missing_and_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("mistake", [NameError, AttributeError, AssertionError])
def test_our_own_mistakes_are_no_fault_of_the_file(tmp_path, mistake):
    def use(image):
        raise mistake("of ours")

    with pytest.raises(mistake, match="of ours"):
        images.open_picture(save(tmp_path / "a.png", GRID), use, "image")


def test_absurd_size_is_refused_before_decoding(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", GRID)
    monkeypatch.setattr(images, "MAX_PIXELS", 5)
    with pytest.raises(DataError, match="too many"):
        read_image(path)


def test_size_is_checked(tmp_path):
    path = save(tmp_path / "a.png", GRID)
    assert read_image(path, size=(2, 3)).shape == (2, 3, 3)
    record = {"file_name": str(path), "height": 3, "width": 2}
    with pytest.raises(DataError, match=r"a\.png is 3 x 2.*says 2 x 3"):
        read_dataset_image(record)
    assert read_dataset_image({"file_name": str(path)}).shape == (2, 3, 3)


def test_one_pixel_wide(tmp_path):
    assert read_image(save(tmp_path / "a.png", GRID[:, :1])).shape == (2, 1, 3)


def test_label_map_keeps_palette_numbers(tmp_path):
    image = Image.fromarray(np.array([[0, 7, 255]], dtype=np.uint8), mode=None).convert("L")
    image.putpalette([3] * 768)
    image.save(tmp_path / "a.png")
    label = read_label_map(tmp_path / "a.png", size=(1, 3))
    assert label.tolist() == [[0, 7, 255]]
    assert label.dtype == np.int32
    with pytest.raises(DataError, match="its image is 5 x 1"):
        read_label_map(tmp_path / "a.png", size=(1, 5))


def test_label_map_16_bit(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 300]], dtype=np.uint16))
    assert read_label_map(path).tolist() == [[0, 300]]


def test_label_map_refuses_colour(tmp_path):
    path = save(tmp_path / "a.png", GRID, "RGB")
    with pytest.raises(DataError, match="palette or grey"):
        read_label_map(path)
