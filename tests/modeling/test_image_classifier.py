import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from wsis.config import get_wsis_cfg
from wsis.errors import DataError
from wsis.modeling.image_classifier import multi_hot


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


@pytest.fixture(scope="module")
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
