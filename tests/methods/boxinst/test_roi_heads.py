"""Mask R-CNN on boxes alone: what its mask loss looks at, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from wsis.errors import UsageError

from tests.modeling.test_image_classifier import image
from tests.modeling.test_mask_rcnn import tiny_cfg

BOX = [14.0, 10.0, 50.0, 44.0]


def cfg_of(**options):
    cfg = tiny_cfg("build_wsis_resnet_fpn_backbone")
    cfg.MODEL.ROI_HEADS.NAME = "BoxInstROIHeads"
    cfg.MODEL.BOXINST.PAIRWISE_WARMUP_ITERS = 0
    for name, value in options.items():
        cfg.merge_from_list([name.replace("__", "."), value])
    return cfg


def model_of(**options):
    torch.manual_seed(0)
    return build_model(cfg_of(**options)).train()


def sample(boxes=(BOX,), *, size=(64, 64), seed=0):
    found = Instances(size)
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_classes = torch.full((len(boxes),), 2)
    return {"image": image(*size, seed), "instances": found, "height": size[0], "width": size[1]}


def losses(model, batch, iteration=0):
    torch.manual_seed(1)
    with EventStorage(iteration):
        return model(batch)


def proposals(boxes, gt_boxes, classes=None, size=(64, 64)):
    found = Instances(size)
    found.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_boxes = Boxes(torch.tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_classes = torch.zeros(len(boxes), dtype=torch.int64) if classes is None else classes
    return found


def test_masks_are_never_looked_at():
    """Objects have no ``gt_masks``; where they have some, these change no loss and no gradient."""
    found = []
    for fill in (None, 0, 1):
        model, batch = model_of(), [sample()]
        if fill is not None:
            masks = torch.full((1, 64, 64), bool(fill))
            batch[0]["instances"].gt_masks = BitMasks(masks)
        terms = losses(model, batch)
        sum(terms.values()).backward()
        found.append((terms, [p.grad for p in model.roi_heads.mask_head.parameters()]))
    first, *others = found
    assert {"loss_projection", "loss_pairwise"} < first[0].keys()
    assert "loss_mask" not in first[0]
    assert any(grad.any() for grad in first[1])
    for terms, gradients in others:
        assert terms == first[0]
        assert all(torch.equal(*pair) for pair in zip(gradients, first[1], strict=True))


def test_inference_and_weights_are_detectron2s():
    ours, stock = model_of(), model_of(MODEL__ROI_HEADS__NAME="StandardROIHeads")
    assert ours.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(ours.state_dict())
    given = [sample()]
    with torch.no_grad():
        a, b = (model.eval()(given)[0]["instances"] for model in (ours, stock))
    assert len(a) == len(b) > 0
    assert torch.equal(a.pred_masks, b.pred_masks)
    assert torch.equal(a.scores, b.scores)


@pytest.mark.parametrize("batch", [[sample(())], [sample(()), sample()]], ids=["none", "some"])
def test_images_without_objects(batch):
    model = model_of()
    found = losses(model, batch)
    sum(found.values()).backward()
    assert all(torch.isfinite(value) for value in found.values())
    assert (found["loss_projection"] > 0) == any(len(one["instances"]) for one in batch)
    assert all(p.grad is not None for p in model.roi_heads.mask_head.parameters())


def test_other_mask_heads_are_refused(monkeypatch):
    """PointRend's, say, has no logits of whole regions."""
    monkeypatch.setitem(ROI_MASK_HEAD_REGISTRY._obj_map, "Other", torch.nn.Identity)
    with pytest.raises(
        UsageError, match=r"MODEL.ROI_MASK_HEAD.NAME: BoxInst .* not Identity; take"
    ):
        model_of(MODEL__ROI_MASK_HEAD__NAME="Other")


def test_the_pairwise_term_warms_up():
    options = {"PAIRWISE_WARMUP_ITERS": 10, "COLOR_DIFFERENCE": 200.0}  # all pairs of noise
    model = model_of(**{f"MODEL__BOXINST__{name}": value for name, value in options.items()})
    found = [losses(model, [sample()], at)["loss_pairwise"].item() for at in (0, 5, 10, 20)]
    assert found[0] == 0
    assert found[1] == pytest.approx(found[2] / 2)
    assert found[2] == found[3] > 0


def test_channels_in_either_order_have_the_same_colours():
    rgb, bgr = model_of(), model_of(INPUT__FORMAT="BGR")
    pixels = torch.randn(2, 3, 8, 8)
    assert torch.equal(rgb.roi_heads._lab(pixels), bgr.roi_heads._lab(pixels.flip(1)))


def test_pixels_are_taken_back_to_their_scale():
    mean, std = [120.0, 110.0, 100.0], [58.0, 57.0, 1.0]
    model = model_of(MODEL__PIXEL_MEAN=mean, MODEL__PIXEL_STD=std)
    white = (255 - torch.tensor(mean)) / torch.tensor(std)
    lab = model.roi_heads._lab(white.view(1, 3, 1, 1))
    assert lab.flatten().tolist() == pytest.approx([100, 0, 0], abs=1e-2)


def picture():
    """LAB of a grey image with a red disc that fills BOX."""
    y, x = torch.arange(64)[:, None] + 0.5, torch.arange(64)[None] + 0.5
    disc = ((x - 32) / 18) ** 2 + ((y - 27) / 17) ** 2 <= 1
    return torch.where(disc, torch.tensor([50.0, 60, 40])[:, None, None], 50.0)[None], disc


def logits_of(mask, boxes, classes=1):
    """The logits of a mask of the image, cropped to each box as Detectron2 crops true masks."""
    crops = BitMasks(mask.expand(len(boxes), 64, 64)).crop_and_resize(torch.tensor(boxes), 28)
    return 8 * (2 * crops.float()[:, None].repeat(1, classes, 1, 1) - 1)


@pytest.mark.parametrize(
    "box",
    [BOX, [10.0, 6.0, 54.0, 48.0], [4.0, 8.0, 49.0, 47.0]],
    ids=["the box", "larger", "shifted"],
)
def test_the_true_mask_is_better_than_the_box(box):
    """Whatever region the proposal is: the edges of the box lie in it, at its rim or beyond."""
    lab, disc = picture()
    heads, filled = model_of().roi_heads, torch.zeros(64, 64, dtype=torch.bool)
    filled[10:44, 14:50] = True
    found = [proposals([box], [BOX])]
    true, whole, empty = (
        sum(heads.mask_losses(logits_of(mask, [box]), found, lab).values())
        for mask in (disc, filled, torch.zeros_like(disc))
    )
    assert true < whole / 3
    assert true < empty / 3


def test_classes_choose_the_mask_that_learns():
    lab, _ = picture()
    lab = torch.cat([lab, lab])
    heads = model_of().roi_heads
    none = proposals([], [])
    given = [none, proposals([BOX, BOX], [BOX, BOX], torch.tensor([2, 0]))]
    logits = torch.randn(2, 3, 28, 28, requires_grad=True)
    specific = heads.mask_losses(logits, given, lab)
    sum(specific.values()).backward()
    assert logits.grad.flatten(2).any(dim=2).tolist() == [
        [False, False, True],
        [True, False, False],
    ]
    agnostic = torch.stack([logits[0, 2], logits[1, 0]])[:, None]
    assert heads.mask_losses(agnostic, given, lab) == specific


def test_what_lies_outside_the_image_is_unknown():
    """An object at the image's edge: there is no background beside it, and no padding counts."""
    heads, size = model_of().roi_heads, (40, 40)
    lab = torch.full((1, 3, 64, 64), 50.0)
    lab[:, :, 40:] = lab[:, :, :, 40:] = 0  # padding of the batch
    box = [0.0, 0.0, 40.0, 40.0]
    given = [proposals([box], [box], size=size)]
    full = 8 * torch.ones(1, 1, 28, 28)
    found = heads.mask_losses(full, given, lab)
    assert found["loss_projection"] < 1e-3
    assert found["loss_pairwise"] < 1e-3
    inside = [10.0, 10.0, 30.0, 30.0]
    found = heads.mask_losses(full, [proposals([inside], [inside], size=size)], lab)
    assert found["loss_pairwise"] > 0.5  # its surroundings have its colour
