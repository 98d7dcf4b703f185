"""Every kind of image file becomes RGB; damaged ones are named."""

import errno
import os
import struct
import subprocess
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from wsis.data import images
from wsis.data.images import (
    check_stated_size,
    read_dataset_image,
    read_image,
    read_image_size,
    read_label_map,
)
from wsis.data.salient import read_salient_mask
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


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colours", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_hold_8_to_16_bits(tmp_path, bits, colours, suffix):
    """The upper 8 of the bits that the file uses; Pillow alone would take those of 16."""
    grid = np.tile(GRID + 55, (colours, 1, 1)).transpose(1, 2, 0).astype(np.uint16)
    grid[..., :3] -= 5 * np.arange(min(colours, 3), dtype=np.uint16)  # channels that differ
    path = str(tmp_path / f"a.{suffix}")
    order = [2, 1, 0, 3][:colours] if colours > 1 else [0]
    cv2.imwrite(path, (grid << (bits - 8))[..., order])
    rgb = grid[..., :3] if colours > 1 else np.repeat(grid, 3, axis=2)
    np.testing.assert_array_equal(read_image(path), rgb)


@pytest.mark.parametrize(
    ("tags", "bits"), [({}, 12), ({281: 65535}, 16), ({341: 16383}, 14), ({341: 1e9}, 12)]
)
def test_a_tiff_may_state_its_largest_value(tmp_path, tags, bits):
    values = (GRID.astype(np.uint16) << 4) + 800
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo=tags)
    assert (read_image(tmp_path / "a.tif")[..., 0] == values >> (bits - 8)).all()


def test_scaled_formats_have_16_bits(tmp_path):
    """Pillow scales what PGM states (here 10 bits) to 16 bits, however dark the picture is."""
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + bytes([0, 0, 0, 40]))
    assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, (40 * 65535 // 1023) >> 8]


def test_deep_colours_are_turned_as_others(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    cv2.imwrite(str(tmp_path / "a.png"), np.repeat(GRID[..., None], 3, 2).astype(np.uint16) << 4)
    chunks = (tmp_path / "a.png").read_bytes()
    raw = exif.tobytes()[6:]
    chunk = b"eXIf" + raw
    chunk = struct.pack(">I", len(raw)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(chunks[:33] + chunk + chunks[33:])
    assert (read_image(tmp_path / "a.png")[..., 0] == np.rot90(GRID, -1)).all()
    assert read_image_size(tmp_path / "a.png") == (3, 2)


def test_32_bit_integers_hold_8_or_16_bits(tmp_path):
    assert (read_image(save(tmp_path / "a.tif", GRID.astype(np.int32)))[..., 0] == GRID).all()
    wide = GRID.astype(np.int32) * 256
    assert (read_image(save(tmp_path / "b.tif", wide))[..., 0] == GRID).all()
    for number, wrong in enumerate((wide - 1, wide << 8)):
        path = save(tmp_path / f"{number}.tif", wrong)
        with pytest.raises(DataError, match=r"values from .* save it with 8 or 16 bits"):
            read_image(path)


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


def test_damaged_deep_colours(tmp_path):
    """OpenCV would leave the rest black."""
    noise = np.random.default_rng(0).integers(0, 1 << 16, (64, 64, 3)).astype(np.uint16)
    path = tmp_path / "cut.png"
    cv2.imwrite(str(path), noise)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"cut\.png cannot be read"):
        read_image(path)


def test_other_formats_are_not_opened(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for the first."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("a program"))
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_bytes(head)
    Image.fromarray(GRID).save(tmp_path / "b.jpg", "PCX")
    for name in ("a.jpg", "b.jpg"):
        for read in (read_image, read_image_size, read_label_map, read_salient_mask):
            with pytest.raises(
                DataError, match=rf"{name} cannot be read \(it is none of JPEG, PNG"
            ):
                read(tmp_path / name)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
def test_formats_go_by_content(tmp_path, kind):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((8, 9), 80, np.uint8)).save(path, kind)
    assert (np.abs(read_image(path).astype(int) - 80) < 4).all()


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", "/dev/zero", tmp_path):
        with pytest.raises(DataError, match="it is a folder, a pipe or a device"):
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
    monkeypatch.setattr(images, "MOST_PIXELS", 5)
    with pytest.raises(DataError, match="its 3 x 2 pixels are more than 5, the limit"):
        read_image(path)


def test_stated_sizes(tmp_path, monkeypatch):
    """An unusually large one is compared with the image before a mask of it is made."""
    path = save(tmp_path / "a.png", GRID)
    assert check_stated_size((9, 9), path) == (9, 9)  # compared when the image is read
    for size in ((0, 5), (5, -1), (1 << 20, 1 << 20), (1, 134_000_000)):
        with pytest.raises(ValueError, match="absurd"):
            check_stated_size(size, path)
    monkeypatch.setattr(images, "_CERTAIN_PIXELS", 5)
    assert check_stated_size((2, 3), path) == (2, 3)
    assert check_stated_size((3, 3), None) == (3, 3)
    with pytest.raises(DataError, match=r"a\.png is 3 x 2.*says 3 x 3"):
        check_stated_size((3, 3), path)


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
    path = save(tmp_path / "a.png", np.stack([GRID, GRID, GRID + 1], axis=2))
    with pytest.raises(DataError, match=r"a colour picture, and .*labelmap\.txt does not say"):
        read_label_map(path)
    with pytest.raises(DataError, match="a label map is palette, grey or RGB, not mode CMYK"):
        read_label_map(save(tmp_path / "a.tif", GRID, "CMYK"))
    path = save(tmp_path / "a.png", GRID, "RGB")  # grey: only the mode is RGB
    assert (read_label_map(path) == GRID).all()


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_what_fails_on_the_machine_is_no_damaged_picture(tmp_path, monkeypatch, error):
    """So WSIS.ON_ERROR skips no image for it."""
    path = save(tmp_path / "a.png", GRID)

    def fail(*_):
        raise error

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(type(error)):
        images.read_image(path)
