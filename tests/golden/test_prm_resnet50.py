import numpy as np
import pytest
import torch
import torch.nn.functional as F
from wsis.methods.prm.convert import peak_classifier_from_original

from tests.golden import fill
from tests.golden.conftest import assert_close
from tests.golden.prm_models import build_prm, prm_cfg


@pytest.fixture(scope="module")
def state(golden, arrays):
    return golden.weights(arrays)


@pytest.fixture
def model(state):
    return build_prm(prm_cfg(len(state["0.classifier.0.bias"])), state)


def close(actual, expected, relative, what):
    assert_close(actual, expected, relative * np.abs(expected).max(), what)


def to_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("key", "factor", "stimulate"),
    [("agg_f1", 1, True), ("agg_f8", 8, True), ("agg_gap", 8, False)],
)
@torch.no_grad()
def test_confidences(state, arrays, key, factor, stimulate):
    cfg = prm_cfg(len(state["0.classifier.0.bias"]), factor=factor, stimulate=stimulate)
    model = build_prm(cfg, state).eval()
    scores, maps, _ = model(torch.from_numpy(arrays["input"]))
    close(scores, arrays[key], 1e-4, key)
    if factor == 1 or not stimulate:
        close(maps, arrays["crm"], 1e-4, "crm")


@torch.no_grad()
def test_features(model, arrays):
    model.eval()
    features = model.backbone(model.normalize(to_tensor(arrays["image"]))[None])["res5"]
    close(features.mean((2, 3)), arrays["features_mean"], 1e-4, "features")


def test_training(golden, model, arrays):
    """Losses, gradients and running statistics of one step on two images."""
    model.train()
    model.zero_grad()
    height, width = arrays["image"].shape[:2]
    images = [arrays["image"], fill.image("prm.image2", height, width, golden.prefix)]
    batch = torch.stack([model.normalize(to_tensor(image)) for image in images])
    logits, _, _ = model(batch)
    assert_close(logits.detach(), arrays["train_logits"], 2e-3, "logits")
    # difficult objects (0) count as present
    target = torch.from_numpy((arrays["train_target"] >= 0).astype(np.float32))
    loss = F.multilabel_soft_margin_loss(logits, target)
    close(loss.detach(), arrays["train_loss"], 1e-4, "loss")
    stem = model.backbone.stem.conv1
    close(stem.norm.running_mean, arrays["train_bn1_mean"], 1e-4, "running mean")
    close(stem.norm.running_var, arrays["train_bn1_var"], 1e-4, "running variance")
    loss.backward()
    weights = model.classifier.weight.grad[:, : arrays["train_grad_cls_weight"].shape[1], 0, 0]
    close(weights, arrays["train_grad_cls_weight"], 5e-3, "classifier weight")
    close(model.classifier.bias.grad, arrays["train_grad_cls_bias"], 5e-3, "classifier bias")
    close(stem.weight.grad, arrays["train_grad_conv1"], 0.04, "conv1")
    names = golden.text(arrays["train_grad_names"])
    marks = {name: torch.tensor(i) for i, name in enumerate(names)}
    ours = {k: int(v) for k, v in peak_classifier_from_original(marks, prefix="").items()}
    parameters = dict(model.named_parameters())
    assert set(ours) == set(parameters)
    for name, position in ours.items():
        norm = float(parameters[name].grad.norm())
        assert norm == pytest.approx(float(arrays["train_grad_norms"][position]), rel=0.02), name


def test_the_loss_of_a_batch(golden, model, arrays):
    """The classifier's own loss, from images and tags."""
    model.train()
    height, width = arrays["image"].shape[:2]
    images = [arrays["image"], fill.image("prm.image2", height, width, golden.prefix)]
    batch = [
        {"image": to_tensor(image), "image_labels": np.flatnonzero(tags >= 0).tolist()}
        for image, tags in zip(images, arrays["train_target"], strict=True)
    ]
    loss = model.losses(batch)["loss_classification"]
    close(loss.detach(), arrays["train_loss"], 1e-4, "loss")


def test_simple_iam_names(state):
    """The names of simple-IAM's rewrite lead to the same places."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[1] == "features":
            block = (
                "res_block1." + parts[2] if int(parts[2]) < 2 else f"res_block{int(parts[2]) - 2}"
            )
            name = ".".join(["0", block, *parts[3:]])
        renamed[name] = value
    ours, expected = (peak_classifier_from_original(s) for s in (renamed, state))
    assert ours.keys() == expected.keys()
    assert all(ours[name] is expected[name] for name in expected)
