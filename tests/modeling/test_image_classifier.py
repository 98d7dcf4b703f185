import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.config import get_wsis_cfg
from wsis.errors import DataError
from wsis.modeling.image_classifier import (
    fuse_cams,
    masked_average_pool,
    multi_hot,
    normalize_by_maximum,
)


def tiny_camnet_cfg(num_classes=3):
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "CAMNet"
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.PIXEL_STD = [128.0, 128.0, 128.0]
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.NORM = "RunningStatsBN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.CAMNET.IN_FEATURE = "res4"
    cfg.MODEL.CAMNET.NUM_CLASSES = num_classes
    return cfg


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(tiny_camnet_cfg())


def image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def test_multi_hot():
    assert multi_hot([], 3).tolist() == [0, 0, 0]
    assert multi_hot([2, 0, 2], 3).tolist() == [1, 0, 1]
    assert multi_hot(torch.tensor([0.0, 1.0, 1.0]), 3).tolist() == [0, 1, 1]
    assert multi_hot(torch.tensor([True, False, False]), 3).tolist() == [1, 0, 0]
    with pytest.raises(DataError, match=r"img7.*\[3\].*NUM_CLASSES is 3"):
        multi_hot([3], 3, image_key="img7")
    with pytest.raises(DataError, match="NUM_CLASSES"):
        multi_hot(torch.ones(4), 3)
    for labels in ([-1], torch.ones(4)):
        with pytest.raises(DataError, match=r"MODEL\.CIM\.NUM_CLASSES"):
            multi_hot(labels, 3, config_key="MODEL.CIM.NUM_CLASSES")


def test_loss_by_hand(model):
    model.train()
    x = image(33, 50)
    loss = model([{"image": x, "image_labels": [1]}])["loss_classification"]
    logits = model.class_maps(model.normalize(x)[None]).mean((2, 3))
    p = logits.sigmoid()[0]
    expected = -(p[1].log() + (1 - p[0]).log() + (1 - p[2]).log()) / 3
    assert torch.allclose(loss, expected, atol=1e-6)


def test_batch_of_different_sizes(model):
    """An image's own cells decide; the padded area of the larger one does not enter the mean."""
    model.train()
    samples = [
        {"image": image(64, 48), "image_labels": [0]},
        {"image": image(32, 80, 1), "image_labels": torch.tensor([0.0, 1.0, 1.0])},
    ]
    loss = model(samples)["loss_classification"]
    padded = [
        F.pad(
            model.normalize(s["image"]), (0, 80 - s["image"].shape[2], 0, 64 - s["image"].shape[1])
        )
        for s in samples
    ]
    maps = model.class_maps(torch.stack(padded))
    logits = torch.stack([maps[0, :, :, :3].mean((1, 2)), maps[1, :, :2].mean((1, 2))])
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    assert torch.allclose(loss, F.multilabel_soft_margin_loss(logits, targets), atol=1e-6)


def test_plain_inference(model):
    model.eval()
    with torch.no_grad():
        found = model([{"image": image(40, 30)}, {"image": image(17, 90).float()}])
    assert [f["scores"].shape for f in found] == [(3,), (3,)]
    assert torch.allclose(found[0]["scores"], found[0]["logits"].sigmoid())


def test_maps_are_the_sum_over_scales_and_flips(model):
    model.eval()
    images = [image(33, 48), image(17, 24, 1)]
    sample = {"images": images, "image_labels": [2, 0], "height": 33, "width": 48}
    with torch.no_grad():
        found = model([sample])[0]
        total = torch.zeros(2, 9, 12)
        for x in images:
            plain = model.class_maps(model.normalize(x)[None])[0].relu()
            mirrored = model.class_maps(model.normalize(x).flip(2)[None])[0].relu().flip(2)
            both = (plain + mirrored)[[0, 2]][None]
            total += F.interpolate(both, (9, 12), mode="bilinear")[0]
    assert found["keys"].tolist() == [0, 2]
    assert found["keys"].dtype == torch.int64
    expected = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    assert torch.allclose(found["cam"], expected, atol=1e-5)
    assert found["high_res"].shape == (2, 33, 48)
    assert float(found["high_res"].min()) >= 0
    assert float(found["high_res"].max()) <= 1


def test_flipping_the_image_flips_the_maps(model):
    """The sum of both directions makes the maps equivariant, unlike the strided network itself."""
    model.eval()
    x = image(33, 49)
    sample = {"images": [x], "image_labels": [0, 1, 2], "height": 33, "width": 49}
    with torch.no_grad():
        a = model([sample])[0]["cam"]
        b = model([sample | {"images": [x.flip(2)]}])[0]["cam"]
    assert torch.allclose(a, b.flip(2), atol=1e-5)


def test_images_without_tags(model):
    model.eval()
    sample = {"images": [image(20, 20)], "height": 20, "width": 20}
    with torch.no_grad():
        scores = model([sample])[0]["scores"]
        model.score_threshold = float(scores.sort().values[1])
        found = model([sample | {"image_labels": None}])[0]
        empty = model([sample | {"image_labels": []}])[0]
    model.score_threshold = 0.5
    assert found["keys"].tolist() == [int(scores.argmax())]
    assert empty["keys"].shape == (0,)
    assert empty["cam"].shape == (0, 5, 5)
    assert empty["high_res"].shape == (0, 20, 20)


def test_one_pixel_wide(model):
    model.eval()
    sample = {"images": [image(40, 1)], "image_labels": [1], "height": 40, "width": 1}
    with torch.no_grad():
        found = model([sample])[0]
    assert found["cam"].shape == (1, 10, 1)
    assert torch.isfinite(found["high_res"]).all()


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
