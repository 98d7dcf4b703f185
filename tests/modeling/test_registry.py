"""Every registered meta-architecture of WSIS, from its tiny config."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from wsis.config import get_wsis_cfg
from wsis.engine.optimizer import build_optimizer

from tests.methods.cim.networks import serving_sample, tiny_cim_cfg, training_sample
from tests.methods.iam.test_meta_arch import sample, tiny_iam_cfg
from tests.modeling.test_image_classifier import image, tiny_camnet_cfg
from tests.modeling.test_mask_rcnn import tiny_cfg

get_wsis_cfg()  # registers everything
OURS = sorted(name for name, kind in META_ARCH_REGISTRY if kind.__module__.startswith("wsis."))
OURS.remove("PromptedMasks")  # nothing to train: tests/methods/prompted_masks


def camnet():
    train = [
        {"image": image(33, 48), "image_labels": [0, 2]},
        {"image": image(40, 17, 1), "image_labels": []},
    ]
    empty = {"images": [image(21, 30)], "image_labels": [], "height": 21, "width": 30}
    return tiny_camnet_cfg(), train, empty


def irnet():
    cfg = tiny_camnet_cfg()
    cfg.MODEL.META_ARCHITECTURE = "IRNet"
    cfg.MODEL.ROI_HEADS.NAME = "IRNetROIHeads"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.WSIS_RESNETS.STRIDES = (1, 2, 2, 1)
    cfg.MODEL.IRNET.INFERENCE_SIZE = 64
    cfg.MODEL.IRNET.TRAIN_RADIUS = 3
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[10:40, 10:30], label[50:] = 2, 255
    train = [
        {"image": image(64, 64), "inter_pixel_label": label},
        {"image": image(64, 64, 1), "inter_pixel_label": torch.zeros_like(label)},
    ]
    empty = {"image": image(40, 52), "height": 40, "width": 52}
    empty |= {"keys": torch.zeros(0, dtype=torch.int64), "cam": torch.zeros(0, 10, 13)}
    return cfg, train, empty


def boxcaseg():
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "BoxCaseg"
    cfg.MODEL.BACKBONE.NAME = "build_hrnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.ROI_HEADS.NAME = "BoxCasegROIHeads"
    cfg.MODEL.HRNET.CHANNELS, cfg.MODEL.HRNET.MODULES = [4, 8, 8, 8], [1, 1, 1]
    cfg.MODEL.HRNET.BLOCKS = cfg.MODEL.HRNET.FIRST_BLOCKS = 1
    cfg.MODEL.HRNET.STEM_CHANNELS = cfg.MODEL.HRNET.FIRST_PLANES = 8
    cfg.MODEL.BOXCASEG.INFERENCE_SIDES = [32]
    label = torch.zeros(32, 32)
    label[8:20, 4:28] = 1
    train = [
        {"image": image(32, 32).float(), "label": label, "salient": False},
        {"image": image(32, 32, 1).float(), "label": label, "salient": True},
    ]
    return cfg, train, {"image": image(33, 48), "height": 33, "width": 48}


def prm():
    cfg = tiny_camnet_cfg()
    cfg.MODEL.META_ARCHITECTURE = "PRM"
    cfg.MODEL.ROI_HEADS.NAME = "PRMROIHeads"
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.PEAK_CLASSIFIER.NUM_CLASSES = cfg.MODEL.CAMNET.NUM_CLASSES
    cfg.MODEL.PEAK_CLASSIFIER.IN_FEATURE = cfg.MODEL.CAMNET.IN_FEATURE
    cfg.MODEL.PEAK_CLASSIFIER.SUB_PIXEL_FACTOR = 2
    cfg.MODEL.PRM.MASKS = "response"
    _, train, _ = camnet()
    return cfg, train, {"image": image(21, 30), "image_labels": []}


def cim():
    train = [training_sample(40, 56, [0, 2]), training_sample(33, 24, [], seed=1)]
    return tiny_cim_cfg(), train, serving_sample(40, 56, count=0)


def class_peaks():
    cfg, train, empty = prm()
    cfg.MODEL.META_ARCHITECTURE = "ClassPeaks"
    return cfg, train, empty


def iam():
    cfg = tiny_iam_cfg()
    train = [sample(), sample(40, 36, labels=[], seed=1)]
    return cfg, train, {"image": image(21, 30), "image_labels": []}


def given_boxes():
    cfg = tiny_cfg("build_wsis_resnet_fpn_backbone")
    cfg.MODEL.META_ARCHITECTURE = "GivenBoxRCNN"
    cfg.MODEL.ROI_HEADS.NAME = "BoxInstROIHeads"
    train = []
    for seed, boxes in enumerate(([[4.0, 6, 40, 30]], [])):
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
        train.append({"image": image(64, 64, seed), "instances": instances})
    return cfg, train, {"image": image(64, 80), "height": 48, "width": 60}


CASES = {"CAMNet": camnet, "IRNet": irnet, "PRM": prm, "IAM": iam, "CIM": cim}
CASES |= {"BoxCaseg": boxcaseg, "ClassPeaks": class_peaks, "GivenBoxRCNN": given_boxes}


def test_every_meta_architecture_has_a_case():
    assert set(OURS) <= set(CASES)


@pytest.mark.parametrize("name", OURS)
def test_train_serve_and_round_trip(name):
    cfg, batch, without_objects = CASES[name]()
    cfg.SOLVER.BASE_LR = 0.01
    torch.manual_seed(0)
    model = build_model(cfg).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_optimizer(cfg, model)
    for _ in range(2):
        optimizer.zero_grad()
        with EventStorage():  # Detectron2's heads log
            losses = model(batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        optimizer.step()
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        served = model([without_objects])
        assert len(served) == 1
        assert isinstance(served[0], dict)
        twin = build_model(cfg).eval()
        twin.load_state_dict(model.state_dict())
        again = twin([without_objects])
    for key, value in served[0].items():
        if isinstance(value, torch.Tensor):
            assert not value.is_floating_point() or bool(torch.isfinite(value).all()), key
            assert torch.equal(value, again[0][key]), key


@pytest.mark.parametrize("name", OURS)
def test_the_layout_in_memory_changes_no_result(name):
    cfg, batch, _ = CASES[name]()
    losses = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = build_model(cfg).to(memory_format=layout).train()
        for module in model.modules():  # its random numbers follow the layout
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with EventStorage():
            losses.append(model(batch))
    for key, value in losses[0].items():
        torch.testing.assert_close(losses[1][key], value, rtol=1e-3, atol=1e-5)
