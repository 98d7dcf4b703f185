import copy

import pytest
import torch
from detectron2.modeling import build_model
from wsis.errors import DataError, UsageError
from wsis.layers.regions import Regions
from wsis.layers.retrieval import prepare_proposals

from tests.modeling.test_image_classifier import image, tiny_camnet_cfg


def tiny_iam_cfg():
    cfg = tiny_camnet_cfg()
    cfg.MODEL.META_ARCHITECTURE = "IAM"
    cfg.MODEL.ROI_HEADS.NAME = "IAMROIHeads"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4"]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.PEAK_CLASSIFIER.IN_FEATURE = "res4"
    cfg.MODEL.PEAK_CLASSIFIER.NUM_CLASSES = 3
    cfg.MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR = 2
    cfg.MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD = -100.0
    cfg.MODEL.PEAK_CLASSIFIER.MAX_PEAKS = 4
    cfg.MODEL.IAM.CHANNELS = 2
    cfg.MODEL.IAM.ITERATIONS = 4
    cfg.MODEL.IAM.PYRAMID_WIDTH = 8
    return cfg


def proposals(height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    masks = torch.stack([y < height // 2, x < width // 3, (y + x) % 40 < 12])
    return prepare_proposals(Regions.from_masks(masks.numpy()), (height, width))


def sample(height=48, width=64, labels=(0, 2), seed=0):
    return {
        "image": image(height, width, seed),
        "image_labels": list(labels),
        "image_key": f"image{seed}",
        "proposals": proposals(height, width),
    }


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(tiny_iam_cfg())


def test_training_without_peaks_is_told_once(model, caplog):
    model.train()
    model.use_tags = False  # the highest peak of a tag counts at any height
    model.peak_classifier.peak_threshold = 1e6
    for _ in range(12):
        loss = model([sample()])["loss_filling"]
    assert loss == 0
    told = [record.getMessage() for record in caplog.records]
    assert sum("nothing is learnt" in message for message in told) == 1


def test_only_the_filling_network_trains(model):
    model.train()
    assert model.filling.training
    assert not any(m.training for m in model.peak_classifier.modules())
    before = copy.deepcopy(model.peak_classifier.state_dict())
    loss = model([sample(), sample(seed=1)])["loss_filling"]
    loss.backward()
    assert loss > 0
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("filling."), name
    for name, value in model.peak_classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_loss_by_hand(model):
    model.train()
    model.sampler = type(model.sampler)(choice="best")
    batch = [sample(), sample(labels=[1], seed=1)]
    loss = model(batch)["loss_filling"]
    found = model.respond(batch)
    targets = [model.sampler.sample(f.responses, s["proposals"])[1] for f, s in zip(found, batch)]  # noqa: B905
    probability = model.fill(found).detach().sigmoid()
    expected = torch.nn.functional.binary_cross_entropy(probability, torch.cat(targets).float())
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)


def test_images_that_train_nothing(model):
    model.train()
    without = sample(labels=[])  # tags say that there is nothing
    loss = model([without])["loss_filling"]
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in model.filling.parameters())
    alone = sample()
    alone["proposals"] = prepare_proposals(
        Regions.from_masks(torch.zeros(0, 48, 64).bool().numpy()), (48, 64)
    )
    assert model([alone])["loss_filling"] == 0
    mixed = sample(seed=2)
    torch.manual_seed(5)
    one = model([mixed])["loss_filling"]
    torch.manual_seed(5)
    torch.testing.assert_close(model([without, mixed, alone])["loss_filling"], one)


def test_different_sizes_in_a_batch(model):
    model.train()
    loss = model([sample(), sample(40, 36, seed=1), sample(seed=2)])["loss_filling"]
    assert bool(torch.isfinite(loss))
    assert loss > 0


def test_training_draws_from_the_seed_of_the_iteration(model):
    model.train()
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(model([sample(), sample(seed=1)])["loss_filling"].item())
    assert losses[0] == losses[1]


def test_tags_choose_the_peaks(model):
    model.eval()
    one = sample(labels=[1])
    (found,) = model([one])
    assert set(found["responses"].peaks[:, 0].tolist()) == {1}
    model.use_tags = False
    model.peak_classifier.class_threshold = -1e9
    (every,) = model([one])
    assert len(set(every["responses"].peaks[:, 0].tolist())) > 1
    del one["image_labels"]
    (same,) = model([one])
    assert torch.equal(same["activation"], every["activation"])


def test_inference_does_not_depend_on_the_batch(model):
    for _ in range(2):
        model.train()([sample(), sample(seed=1)])
    model.eval()
    batch = [sample(), sample(40, 36, seed=1), sample(labels=[], seed=2)]
    for statistics in ("running", "batch"):
        model.filling.set_statistics(statistics)
        with torch.no_grad():
            together = model(batch)
            alone = [model([one])[0] for one in batch]
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a["activation"], b["activation"])
            assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)
        assert len(together[2]["instances"]) == 0


def test_the_size_of_the_file(model):
    (found,) = model.eval()([sample() | {"height": 100, "width": 90}])
    assert found["instances"].image_size == (100, 90)
    assert found["instances"].pred_masks.shape[1:] == (100, 90)
    assert found["activation"].shape[1:] == (48, 64)
    assert bool(((found["activation"] >= 0) & (found["activation"] <= 1)).all())


def test_response_mean(model):
    model.response_mean = 1.0
    (found,) = model.eval().respond([sample()])
    seen = []
    model.filling.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.fill([found])
    means = seen[0].mean(dim=(1, 2))
    torch.testing.assert_close(means, torch.ones_like(means))


def test_a_diverged_classifier_names_the_image(model):
    with torch.no_grad():
        model.peak_classifier.classifier.bias.fill_(float("nan"))
    with pytest.raises(DataError, match=r"image0.*not finite"):
        model.eval()([sample()])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("IN_FEATURES", ["res2", "res3"], "three IN_FEATURES"),
        ("IN_FEATURES", ["res2", "res3", "res7"], "res4"),
        ("STATISTICS", "none", "running or batch"),
    ],
)
def test_bad_config(key, value, message):
    cfg = tiny_iam_cfg()
    cfg.MODEL.IAM[key] = value
    with pytest.raises(UsageError, match=message):
        build_model(cfg)


def test_mixed_precision_trains(model):
    model.train()
    model.sampler = type(model.sampler)(choice="best")
    expected = model([sample(), sample(seed=1)])["loss_filling"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model([sample(), sample(seed=1)])["loss_filling"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    loss.backward()
    grads = [p.grad for p in model.filling.parameters()]
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def test_the_backbone_is_checked():
    cfg = tiny_iam_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = "mobilenetv3_small_100"
    cfg.MODEL.PEAK_CLASSIFIER.IN_FEATURE = "res3"
    with pytest.raises(UsageError, match="product of two maps"):
        build_model(cfg)
