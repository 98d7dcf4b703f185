import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from wsis.errors import DataError, UsageError
from wsis.layers.regions import Regions

from tests.modeling.test_image_classifier import image
from tests.modeling.test_peak_classifier import tiny_cfg, unsupported_cfg


def prm_cfg(**options):
    cfg = tiny_cfg(MAX_PEAKS=4)
    cfg.MODEL.META_ARCHITECTURE = "PRM"
    cfg.MODEL.ROI_HEADS.NAME = "PRMROIHeads"
    for name, value in options.items():
        setattr(cfg.MODEL.PRM, name, value)
    return cfg


def build(**options):
    torch.manual_seed(0)
    return build_model(prm_cfg(**options)).eval()


def squares(size, count=4):
    masks = np.zeros((count, *size), dtype=bool)
    for i in range(count):
        masks[i, 5 * i : 5 * i + 12, 4 * i : 4 * i + 12] = True
    return Regions.from_masks(masks)


@torch.no_grad()
def test_inference_with_proposals_of_images_of_two_sizes():
    model = build(NMS_THRESHOLD=2.0)
    batch = [
        {"image": image(40, 52), "proposals": squares((80, 104)), "height": 80, "width": 104},
        {"image": image(48, 64, 1), "proposals": squares((48, 64)), "image_labels": [1]},
    ]
    outputs = model(batch)
    for sample, output in zip(batch, outputs, strict=True):
        masks = output["instances"].pred_masks.numpy()
        assert masks.shape[1:] == sample["proposals"].size
        assert len(masks) == len(output["responses"].peaks) > 0
        every = sample["proposals"].decode()
        assert all(any(np.array_equal(m, other) for other in every) for m in masks)
        assert torch.isfinite(output["logits"]).all()
    assert set(outputs[1]["instances"].pred_classes.tolist()) == {1}


@torch.no_grad()
def test_tags_can_be_left_unused():
    sample = {"image": image(40, 52), "image_labels": []}
    assert len(build(MASKS="response")([sample])[0]["instances"]) == 0
    assert len(build(MASKS="response", USE_TAGS=False)([sample])[0]["instances"]) > 0


@torch.no_grad()
def test_classification_alone_makes_no_response_maps():
    output = build()([{"image": image(40, 52)}])[0]
    assert output["responses"].responses is None
    assert "instances" not in output
    assert output["scores"].shape == (3,)


@torch.no_grad()
def test_a_batch_where_one_image_lacks_proposals():
    batch = [{"image": image(40, 52), "proposals": squares((40, 52))}]
    batch.append({"image": image(40, 52), "image_key": "lost"})
    with pytest.raises(DataError, match="image lost: .*without any"):
        build()(batch)


def test_class_factors_must_fit():
    with pytest.raises(UsageError, match="CLASS_FACTORS has 1 entries for 3 classes"):
        build(CLASS_FACTORS=[[0.95, 1e-5, 0.8]])


def test_tags_that_are_no_classes_name_the_image():
    sample = {"image": image(40, 52), "image_labels": [-1], "image_key": "lost"}
    with pytest.raises(DataError, match="image lost: .*MODEL.PEAK_CLASSIFIER.NUM_CLASSES"):
        build(MASKS="response")([sample])


def test_the_backbone_is_checked():
    cfg = unsupported_cfg()
    cfg.MODEL.META_ARCHITECTURE = "PRM"
    cfg.MODEL.ROI_HEADS.NAME = "PRMROIHeads"
    with pytest.raises(UsageError, match="product of two maps"):
        build_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ClassPeaks"
    output = build_model(cfg).eval()([{"image": image(40, 52), "image_labels": [1]}])[0]
    assert output["logits"].shape == output["scores"].shape == (3,)  # what its evaluation asks for
