import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.layers.cam import fuse_cams, masked_average_pool, normalize_by_maximum


def test_pooling_leaves_padding_out():
    features = torch.zeros(2, 1, 4, 5)
    features[0] = 3.0
    features[1, 0, :2, :3] = 6.0  # the image's own cells; the rest is padding
    features[1, 0, 2:] = 100.0
    features[1, 0, :, 3:] = 100.0
    pooled = masked_average_pool(features, [(64, 80), (17, 48)], stride=16)
    assert pooled.tolist() == [[3.0], [6.0]]


def test_pooling_of_equal_sizes_is_the_plain_mean():
    features = torch.randn(3, 4, 2, 5)
    pooled = masked_average_pool(features, [(30, 70)] * 3, stride=16)
    assert torch.equal(pooled, features.mean((2, 3)))


def test_pooling_of_a_tiny_image_uses_one_cell():
    features = torch.arange(4.0).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    pooled = masked_average_pool(features, [(32, 32), (1, 1)], stride=16)
    assert pooled.tolist() == [[1.5], [0.0]]


def test_one_scale_by_hand():
    maps = torch.tensor([[[0.0, 2.0]], [[8.0, 8.0]]])  # 2 classes, 1 x 2 cells of stride 4
    cam, high_res = fuse_cams([maps], (3, 7), torch.tensor([0]), stride=4)
    assert cam.shape == (1, 1, 2)
    assert torch.allclose(cam, torch.tensor([[[0.0, 1.0]]]), atol=1e-5)
    # bilinear from 1 x 2 to 4 x 8, cut to 3 x 7: columns at -1/8 .. 7/8 of the cells
    expected = torch.tensor([0, 0, 0.25, 0.75, 1.25, 1.75, 2.0])
    assert torch.allclose(high_res[0], (expected / 2).expand(3, 7), atol=1e-5)


def test_align_corners_puts_small_cells_on_every_fourth_pixel():
    maps = torch.tensor([[[6.0, 0.0]]])  # pixel i of ten gets 6 - 6 i / 9
    cam, _ = fuse_cams([maps], (1, 10), torch.tensor([0]), align_corners=True)
    assert torch.allclose(cam, torch.tensor([[[1.0, 5 / 9, 1 / 9]]]), atol=1e-5)


def test_align_corners_reaches_the_borders():
    maps = torch.tensor([[[0.0, 4.0]]])
    _, high_res = fuse_cams([maps], (1, 5), torch.tensor([0]), stride=4, align_corners=True)
    assert torch.allclose(high_res[0, 0], torch.tensor([0, 0.25, 0.5, 0.75, 1.0]), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 17)])
def test_no_class_gives_empty_maps(size):
    maps = [torch.rand(3, 2, 2), torch.rand(3, 1, 1)]
    cam, high_res = fuse_cams(maps, size, torch.zeros(0, dtype=torch.int64))
    assert cam.shape == (0, (size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1)
    assert high_res.shape == (0, *size)


def test_an_empty_map_stays_empty():
    maps = normalize_by_maximum(torch.stack([torch.zeros(2, 3), torch.full((2, 3), 7.0)]))
    assert maps[0].max() == 0
    assert 0.999 < float(maps[1].max()) < 1


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.floats(1.0, 50.0), st.integers(0, 2**16))
def test_positive_scaling_and_class_order(height, width, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    sides = -(-height // 16), -(-width // 16)
    maps = [torch.rand(3, *sides, generator=generator) + 0.5]
    keys = torch.tensor([0, 2])
    cam, high_res = fuse_cams(maps, (height, width), keys)
    assert cam.shape == (2, (height - 1) // 4 + 1, (width - 1) // 4 + 1)
    assert high_res.shape == (2, height, width)
    scaled, _ = fuse_cams([maps[0] * factor], (height, width), keys)
    assert torch.allclose(scaled, cam, atol=3e-5)
    swapped, _ = fuse_cams(maps, (height, width), keys.flip(0))
    assert torch.equal(swapped.flip(0), cam)
