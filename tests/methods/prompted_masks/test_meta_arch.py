"""Which of the proposed masks is taken, and what is made of it; the network is a stand-in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn
from wsis.config import get_wsis_cfg
from wsis.errors import DataError, UsageError
from wsis.methods.prompted_masks.meta_arch import PromptedMasks
from wsis.methods.prompted_masks.stages import box_mask_artifact

from tests.methods.prompted_masks.networks import save_tiny

SIZE = (20, 30)


class Proposes(nn.Module):
    """Stands for the model: gives these masks and scores, prompt by prompt, and notes the image."""

    def __init__(self, proposals):
        super().__init__()
        self.proposals = proposals

    def candidates(self, image, kind, prompts, *, at_once):
        self.asked = image, kind, prompts.tolist(), at_once
        for masks, scores in self.proposals:
            yield torch.from_numpy(np.array(masks)), torch.tensor(scores)


def filled(x0, y0, x1, y1):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def sample(**prompts):
    given = {name: torch.as_tensor(value) for name, value in prompts.items()}
    image = torch.arange(3 * 600).reshape(3, *SIZE).to(torch.uint8)
    return {"image": image, "prompts": Instances(SIZE, **given), "image_key": "a"}


def masks_of(proposals, prompts, given, **options):
    model = PromptedMasks(segmenter=Proposes(proposals), prompts=prompts, **options).eval()
    (made,) = model([given])
    return made["instances"]


def boxes(*given, classes=None):
    whole = np.array([[x0, y0, -int(-x1 // 1), -int(-y1 // 1)] for x0, y0, x1, y1 in given])
    classes = classes or [0] * len(given)
    given = np.array(given, dtype=np.float64)
    return sample(boxes=given, whole_boxes=whole.astype(np.int64), gt_classes=classes)


def test_a_mask_that_fills_its_box_beats_a_part_that_scores_higher():
    masks = [filled(5, 5, 15, 15), filled(5, 5, 10, 15), filled(0, 0, 30, 20)]
    proposals = [(masks, [0.7, 0.9, 1.0])]
    found = masks_of(proposals, "boxes", boxes([5.0, 5.0, 15.0, 15.0], classes=[3]))
    assert np.array_equal(found.pred_masks[0], filled(5, 5, 15, 15))
    assert found.scores.tolist() == pytest.approx([0.7])
    assert found.confidence.tolist() == [1]
    assert found.pred_classes.tolist() == [3]
    assert found.pred_boxes.tensor.tolist() == [[5, 5, 15, 15]]


def test_of_masks_that_fit_alike_the_higher_score_wins():
    """An edge that is off by a pixel fits: so it is in boxes of 8 pixels, too."""
    proposals = [([filled(5, 5, 13, 13), filled(5, 6, 12, 13)], [0.7, 0.8])]
    found = masks_of(proposals, "boxes", boxes([5.0, 5.0, 13.0, 13.0]))
    assert np.array_equal(found.pred_masks[0], filled(5, 6, 12, 13))


def test_what_lies_outside_the_box_is_cut_off_and_lowers_the_confidence():
    found = masks_of([([filled(5, 5, 25, 15)], [0.5])], "boxes", boxes([5.0, 5.0, 14.5, 15.0]))
    assert np.array_equal(found.pred_masks[0], filled(5, 5, 15, 15))
    assert found.confidence.tolist() == pytest.approx([0.475])
    kept = box_mask_artifact({"instances": found})
    assert kept["boxes"].tolist() == [[5, 5, 15, 15]]
    assert {name: value.dtype for name, value in kept.items()} == {
        "boxes": np.int64,
        "classes": np.int64,
        "confidence": np.float64,
        "masks": np.bool_,
        "scores": np.float32,
    }


def test_a_box_keeps_its_place_without_any_mask():
    nothing, whole = np.zeros(SIZE, dtype=bool), filled(2, 2, 9, 9)
    proposals = [([nothing, nothing], [0.9, 0.95]), ([nothing, whole], [0.9, -0.3])]
    given = boxes([5.0, 5.0, 13.0, 13.0], [2.0, 2.0, 9.0, 9.0], classes=[1, 0])
    found = masks_of(proposals, "boxes", given)
    assert found.pred_masks.flatten(1).sum(dim=1).tolist() == [0, 49]
    assert found.confidence.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.95, 0])  # never below 0, nor above 1


def test_a_mask_with_two_points_gives_way_to_that_of_one():
    whole, part = filled(0, 0, 30, 20), filled(0, 0, 10, 10)
    proposals = [([whole, part], [0.9, 0.5]), ([whole, filled(12, 12, 18, 18)], [0.9, 0.4])]
    points = sample(points=[[5.0, 5.0], [30.0, 20.0]], gt_classes=[0, 1])  # on the far border
    found = masks_of(proposals, "points", points)
    # the second has no mask of its own at its point: that of both is all there is
    assert found.pred_masks.flatten(1).sum(dim=1).tolist() == [100, 600]
    assert found.pred_classes.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.5, 0.9])
    assert not found.has("confidence")


def test_a_point_alone_goes_by_the_score():
    proposals = [([filled(0, 0, 9, 9), filled(0, 0, 4, 4), filled(20, 0, 30, 9)], [0.6, 0.7, 0.9])]
    found = masks_of(proposals, "points", sample(points=[[2.0, 2.0]], gt_classes=[0]))
    assert found.pred_masks.sum() == 16


def test_scores_above_1_still_rank():
    """Networks say such; an IoU is at most 1."""
    proposals = [([filled(0, 0, 9, 9), filled(0, 0, 4, 4)], [1.01, 1.02])]
    found = masks_of(proposals, "points", sample(points=[[2.0, 2.0]], gt_classes=[0]))
    assert found.pred_masks.sum() == 16
    assert found.scores.tolist() == [1]


def test_points_without_a_mask_make_no_instance():
    proposals = [([np.zeros(SIZE, dtype=bool)], [0.9]), ([filled(0, 0, 4, 4)], [0.9])]
    points = sample(points=[[5.0, 5.0], [1.0, 1.0]], gt_classes=[2, 1])
    assert masks_of(proposals, "points", points).pred_classes.tolist() == [1]


def peaks_of(threshold):
    one, same, other = filled(0, 0, 10, 10), filled(0, 0, 10, 9), filled(15, 0, 25, 10)
    proposals = [([one], [0.9]), ([same, other], [0.95, 0.2]), ([other], [0.5])]
    given = {"points": [[1.0, 1.0], [50.0, 2.0], [16.0, 1.0]], "gt_classes": [0, 1, 0]}
    given["peak_values"] = torch.tensor([3.0, 0.0, 20.0])
    return masks_of(proposals, "peaks", sample(**given), nms_threshold=threshold)


def test_of_peaks_of_one_object_the_best_stays():
    found = peaks_of(0.5)
    assert found.pred_classes.tolist() == [0, 0]
    assert found.scores.tolist() == pytest.approx([0.9 / (1 + np.exp(-3.0)), 0.5])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [15, 0, 25, 10]]
    assert len(peaks_of(1.5)) == 3


def test_the_model_sees_rgb():
    given = boxes([5.0, 5.0, 13.0, 13.0])
    for image_format, expected in (("RGB", given["image"]), ("BGR", given["image"].flip(0))):
        segmenter = Proposes([([filled(0, 0, 3, 3)], [0.5])])
        model = PromptedMasks(segmenter=segmenter, image_format=image_format, prompts_at_once=5)
        model.eval()([given])
        image, kind, asked, at_once = segmenter.asked
        assert torch.equal(image, expected)
        assert (kind, asked, at_once) == ("boxes", [[5, 5, 13, 13]], 5)


@pytest.mark.parametrize("prompts", ["boxes", "points", "peaks"])
def test_images_without_prompts_do_not_ask_the_model(prompts):
    model = PromptedMasks(segmenter=nn.Identity(), prompts=prompts).eval()
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    nothing = Instances(SIZE, gt_classes=torch.zeros(0, dtype=torch.int64))
    for given in ({}, {"prompts": nothing}):
        (made,) = model([{"image": image, "height": 40, "width": 60, **given}])
        assert made["instances"].pred_masks.shape == (0, 40, 60)
    if prompts == "boxes":
        assert box_mask_artifact(made)["boxes"].shape == (0, 4)


def test_scores_that_are_not_finite_are_told():
    proposals = [([filled(0, 0, 3, 3)], [float("nan")])]
    with pytest.raises(DataError, match="image a: the Segment Anything model's scores are"):
        masks_of(proposals, "boxes", boxes([5.0, 5.0, 13.0, 13.0]))


def config_of(folder):
    cfg = get_wsis_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "PromptedMasks"
    cfg.MODEL.PROMPTED_MASKS.MODEL = str(save_tiny(folder))
    return cfg


def test_it_is_built_from_a_config_and_not_trained(tmp_path):
    cfg = config_of(tmp_path)
    model = build_model(cfg)
    assert (model.prompts, model.prompts_at_once, model.nms_threshold) == ("boxes", 16, 0.5)
    twin = build_model(cfg)
    twin.load_state_dict(model.state_dict())
    given = boxes([5.0, 5.0, 13.0, 13.0], [0.0, 0.0, 30.0, 20.0])
    (made,), (again,) = (one.eval()([given]) for one in (model, twin))
    assert torch.equal(made["instances"].pred_masks, again["instances"].pred_masks)
    with pytest.raises(UsageError, match="takes its network"):
        model.train()([given])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_masks(tmp_path):
    cfg = config_of(tmp_path)
    given = boxes([5.0, 5.0, 13.0, 13.0], [0.0, 0.0, 30.0, 20.0])
    (expected,) = build_model(cfg).eval()([given])
    cfg.MODEL.DEVICE = "cuda"
    (made,) = build_model(cfg).eval()([given])
    differ = made["instances"].pred_masks != expected["instances"].pred_masks
    assert int(differ.sum()) <= 3  # pixels whose logit rounds to 0
