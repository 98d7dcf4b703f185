"""Colours of regions."""

import cv2
import numpy as np
import pytest
import torch
from wsis.methods.boxinst.cell_colors import pool_colors, rgb_to_lab


def test_lab_is_opencvs():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [1, 2, 3], [255, 0, 0]]
    wanted = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    found = rgb_to_lab(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0)
    assert found.numpy() == pytest.approx(wanted, abs=0.4)  # OpenCV interpolates in tables


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (100, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_known_colors(rgb, lab):
    found = rgb_to_lab(torch.tensor(rgb).view(3, 1, 1)).flatten()
    assert found.tolist() == pytest.approx(lab, abs=0.02)


def test_a_cell_has_the_mean_of_its_pixels():
    image = torch.arange(3 * 12 * 16.0).view(3, 12, 16) ** 1.5
    found = pool_colors(image, torch.tensor([[4.0, 2.0, 12.0, 10.0]]), side=4, margin=1)
    assert found.shape == (1, 3, 6, 6)
    wanted = image[:, :12, 2:14].unfold(1, 2, 2).unfold(2, 2, 2).mean(dim=(3, 4))
    assert torch.allclose(found[0], wanted)


def test_cells_below_a_pixel_change_smoothly():
    """A region of 4 pixels: 7 cells to a pixel. Its edge of 50 is spread over neighbours."""
    image = torch.zeros(3, 20, 20)
    image[:, :, 10:] = 50
    found = pool_colors(image, torch.tensor([[8.0, 8.0, 12.0, 12.0]]), side=28, margin=2)
    row = found[0, 0, 16]
    assert (row.diff() >= 0).all()
    assert row.diff().max() <= 50 / 7 + 1e-3  # from one cell to the next
    assert (row[2:] - row[:-2]).max() > 2.4 * 3**0.5  # still no neighbours at a distance of 2


def test_no_region():
    assert pool_colors(torch.zeros(3, 8, 8), torch.zeros(0, 4), 28, 2).shape == (0, 3, 32, 32)
