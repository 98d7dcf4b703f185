import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from wsis.config import get_wsis_cfg
from wsis.engine.optimizer import build_optimizer
from wsis.modeling.weight_names import camnet_from_original, torchvision_resnet_name

from tests.golden.conftest import assert_close

NAME = "irnet_cam_forward"


def camnet_cfg(num_classes: int):
    """The classifier as the original has it: stride 16, no dilation, gradient cut after layer2."""
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "CAMNet"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.BACKBONE.NAME = "build_wsis_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.NORM = "RunningStatsBN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 1)
    cfg.MODEL.CAMNET.NUM_CLASSES = num_classes
    cfg.WSIS.SOLVER.LR_FACTORS = [["backbone", 0.1], ["classifier", 1.0]]
    return cfg


def build_camnet(cfg, state):
    model = build_model(cfg)
    missing, unexpected = model.load_state_dict(camnet_from_original(state), strict=False)
    assert not unexpected
    assert not [name for name in missing if not name.endswith("num_batches_tracked")]
    return model


@pytest.fixture(scope="module")
def cfg(arrays):
    return camnet_cfg(arrays["labels"].shape[1])


@pytest.fixture
def model(golden, arrays, cfg):
    return build_camnet(cfg, golden.weights(arrays))


def to_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


def ours(name):
    """Our name of a parameter of the original."""
    if name.startswith("resnet50."):
        return "backbone." + torchvision_resnet_name(name.removeprefix("resnet50."))
    return name


def test_normalisation(model, arrays):
    for image, x in zip(arrays["images"], arrays["x"], strict=True):
        assert_close(model.normalize(to_tensor(image)), x, 1e-5, "x")


def test_logits_and_maps(model, arrays):
    model.eval()
    with torch.no_grad():
        raw = model.class_maps(torch.from_numpy(arrays["x"]))
        logits = torch.stack(
            [model([{"image": to_tensor(i)}])[0]["logits"] for i in arrays["images"]]
        )
    assert_close(logits, arrays["logits"], 2e-5 * np.abs(arrays["logits"]).max(), "logits")
    assert_close(raw, arrays["cam_raw"], 2e-5 * np.abs(arrays["cam_raw"]).max(), "cam_raw")


def test_flip_fusion(model, arrays):
    """One scale whose size is the map's own leaves the sum of both directions as it is."""
    model.eval()
    x = torch.from_numpy(arrays["x"][0])
    with torch.no_grad():
        raw = model.class_maps(torch.stack([x, x.flip(-1)]))
    cam = raw[0].relu() + raw[1].relu().flip(-1)
    assert_close(cam, arrays["cam"], 2e-5 * np.abs(arrays["cam"]).max(), "cam")
    height, width = arrays["images"].shape[1:3]
    sample = {"images": [to_tensor(arrays["images"][0])], "height": height, "width": width}
    strongest = arrays["cam"].max((1, 2))  # faint maps would magnify the tolerance below
    classes = np.flatnonzero(strongest > 0.1 * strongest.max())
    with torch.no_grad():
        found = model([sample | {"image_labels": classes.tolist()}])[0]
    stride4 = torch.nn.functional.interpolate(
        torch.from_numpy(arrays["cam"][classes])[None],
        ((height - 1) // 4 + 1, (width - 1) // 4 + 1),
        mode="bilinear",
    )[0]
    expected = stride4 / (stride4.amax((1, 2), keepdim=True) + 1e-5)
    assert_close(found["cam"], expected, 5e-4, "cam of forward")


def test_loss_and_gradients(golden, model, arrays):
    model.train()
    model.zero_grad()
    batch = [
        {"image": to_tensor(image), "image_labels": torch.from_numpy(label)}
        for image, label in zip(arrays["images"], arrays["labels"], strict=True)
    ]
    losses = model(batch)
    assert list(losses) == ["loss_classification"]
    loss = losses["loss_classification"]
    assert_close(loss.detach(), arrays["loss"], 1e-5, "loss")
    loss.backward()
    parameters = dict(model.named_parameters())
    norms = golden.text(arrays["grad_norms"])
    for name, expected in norms.items():
        parameter = parameters.get(ours(name))  # frozen batch norm has no parameters at all
        gradient = None if parameter is None else parameter.grad
        if expected is None:
            assert gradient is None, name
        else:
            assert float(gradient.norm()) == pytest.approx(expected, rel=2e-3), name
    assert {ours(n) for n, v in norms.items() if v is not None} == {
        n for n, p in parameters.items() if p.requires_grad
    }


def test_optimiser_groups(golden, model, arrays, cfg):
    """The groups differ in their rate; ours leave out what gets no gradient."""
    trained = {n for n, v in golden.text(arrays["grad_norms"]).items() if v is not None}
    rates = {}
    names = {id(p): n for n, p in model.named_parameters()}
    for group in build_optimizer(cfg, model).param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"] / cfg.SOLVER.BASE_LR
    expected = {ours(n): 0.1 for n in golden.text(arrays["group0"]) if n in trained}
    expected |= {ours(n): 1.0 for n in golden.text(arrays["group1"]) if n in trained}
    assert rates == pytest.approx(expected)
    frozen = {ours(n) for n in golden.text(arrays["requires_grad_false"])}
    assert not frozen & rates.keys()


def test_aliases_of_a_real_checkpoint_change_nothing(golden, arrays):
    state = golden.weights(arrays)
    aliases = golden.text(arrays["state_aliases"])
    full = state | {alias: state[name] for alias, name in aliases.items() if name}
    converted, expected = camnet_from_original(full), camnet_from_original(state)
    assert converted.keys() == expected.keys()
    assert all(converted[name] is expected[name] for name in expected)
