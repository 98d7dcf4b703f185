import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.nn import functional
from wsis.errors import DataError, UsageError
from wsis.methods.boxcaseg.meta_arch import normalize

from tests.modeling.test_image_classifier import image
from tests.modeling.test_registry import boxcaseg


def sample(size, boxes, seed=0):
    proposals = Instances(size)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    proposals.gt_classes = torch.arange(len(boxes))
    return {"image": image(*size, seed), "proposals": proposals, "height": size[0]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    cfg, *_ = boxcaseg()
    cfg.MODEL.HRNET.INIT = "msra"
    cfg.MODEL.HRNET.CHANNELS = [8, 8, 8, 8]
    cfg.MODEL.BOXCASEG.MAX_CROPS = 2
    return build_model(cfg).eval()


def test_masks_in_their_boxes(model):
    boxes = [[3, 4, 20, 30], [0, 0, 48, 33], [10, 10, 11, 11]]
    (found,) = model([sample((33, 48), boxes)])
    instances = found["instances"]
    assert instances.pred_boxes.tensor.tolist() == boxes
    assert instances.pred_classes.tolist() == [0, 1, 2]
    assert instances.pred_masks.shape == (3, 33, 48)
    assert instances.pred_masks.dtype == torch.bool
    for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes, strict=True):
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
    assert instances.pred_masks[1].any()
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
    assert found["levels"].shape == (3, 8, 8)
    assert found["levels"].flatten(1).amax(1).tolist() == [255] * 3


def test_batches_of_different_sizes_give_what_single_images_give(model):
    one = sample((33, 48), [[3, 4, 20, 30], [5, 5, 40, 20]])
    none, other = sample((20, 21), []), sample((64, 40), [[1, 1, 39, 60]], 1)
    together = model([one, none, other, {"image": image(9, 7)}])
    assert [len(r["instances"]) for r in together] == [2, 0, 1, 0]
    assert together[1]["instances"].pred_masks.shape == (0, 20, 21)
    for given, result in zip((one, none, other), together, strict=False):
        (alone,) = model([given])
        np.testing.assert_array_equal(alone["levels"], result["levels"])


def test_several_sides_and_mirrored_crops(model):
    given = sample((33, 48), [[3, 4, 20, 30], [5, 5, 40, 20], [0, 0, 9, 9]])
    boxes = given["proposals"].proposal_boxes.tensor.long()
    one = {}
    for side in (32, 64):
        model.inference_sides = [side]
        one[side] = model._probabilities(given["image"].float(), boxes)
    model.inference_sides = [32, 64]
    both = model._probabilities(given["image"].float(), boxes)
    enlarged = functional.interpolate(one[32][:, None], size=(16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(both, (enlarged + one[64]) / 2)

    model.inference_flip = True
    mirrored = torch.tensor([[28, 4, 45, 30], [8, 5, 43, 20], [39, 0, 48, 9]])
    maps = [
        model._probabilities(pixels.float(), places)
        for pixels, places in ((given["image"], boxes), (given["image"].flip(-1), mirrored))
    ]
    torch.testing.assert_close(maps[0], maps[1].flip(-1))
    assert not torch.equal(maps[0], both)
    assert torch.equal(model._probabilities(given["image"].float(), boxes, 64), one[64])


def test_points_get_the_masks_of_the_boxes_that_are_found(model):
    points = torch.tensor([[10.5, 20.5], [40.0, 3.0]], dtype=torch.float64)
    given = sample((33, 48), [])
    given["proposals"] = Instances((33, 48), proposal_points=points, gt_classes=torch.arange(2))
    (found,) = model([given])
    instances = found["instances"]
    boxes = instances.pred_boxes.tensor
    assert torch.equal(boxes, boxes.round())
    assert (boxes[:, :2] <= points).all()
    assert (boxes[:, 2:] >= points).all()
    assert instances.pred_classes.tolist() == [0, 1]
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
    (alone,) = model([sample((33, 48), boxes.tolist())])
    assert torch.equal(alone["instances"].pred_masks, instances.pred_masks)
    assert torch.equal(alone["levels"], found["levels"])
    given["proposals"] = given["proposals"][:0]
    (none,) = model([given])
    assert none["instances"].pred_masks.shape == (0, 33, 48)


def test_two_normalisations():
    cfg, batch, _ = boxcaseg()
    cfg.MODEL.BOXCASEG.SALIENT_PIXEL_MEAN = [1.0, 2.0, 3.0]
    cfg.MODEL.BOXCASEG.SALIENT_PIXEL_STD = [2.0, 2.0, 2.0]
    model = build_model(cfg).train()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(batch)
    box, salient = (x["image"] for x in batch)
    own = {"mean": cfg.MODEL.PIXEL_MEAN, "std": cfg.MODEL.PIXEL_STD}
    torch.testing.assert_close(seen[0][0], normalize(box, **own))
    expected = normalize(salient, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0))
    torch.testing.assert_close(seen[0][1], expected)


def test_a_batch_without_salient_images_still_reaches_every_parameter():
    cfg, batch, _ = boxcaseg()
    model = build_model(cfg).train()
    losses = model([batch[0], batch[0]])
    assert losses["loss_salient"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_features_of_any_backbone():
    cfg, batch, _ = boxcaseg()
    cfg.MODEL.BACKBONE.NAME = "build_hrnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res2", "res3", "res4", "res5"], 8
    cfg.MODEL.BOXCASEG.IN_FEATURES = ["p2", "p3"]
    model = build_model(cfg).train()
    assert model.roi_heads.weak[0].weight.shape[:2] == (16, 16)
    assert all(torch.isfinite(loss) for loss in model(batch).values())
    cfg.MODEL.BOXCASEG.IN_FEATURES = ["p2", "p9"]
    with pytest.raises(UsageError, match="'p9', but the backbone has p2"):
        build_model(cfg)


def test_a_diverged_network_says_so(model):
    broken = {k: v.clone() for k, v in model.state_dict().items()}
    model.backbone.conv1.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        model([sample((33, 48), [[3, 4, 20, 30]])])
    model.load_state_dict(broken)
