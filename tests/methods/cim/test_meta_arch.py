import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional
from wsis.errors import DataError, UsageError
from wsis.methods.cim.roi_heads import LOSSES

from tests.methods.cim.networks import serving_sample, tiny_cim_cfg, training_sample


def network(cfg=None, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg or tiny_cim_cfg())


def losses(model, batch):
    model.train()
    torch.manual_seed(1)
    return model(batch)


def test_a_batch_is_the_mean_of_its_images():
    model = network()
    one, two = training_sample(40, 56, [0, 2]), training_sample(33, 24, [1], seed=1)
    model.roi_heads.mining = type(model.roi_heads.mining)(sample=False)
    both = losses(model, [one, two])
    alone = [losses(model, [sample]) for sample in (one, two)]
    assert set(both) == set(LOSSES)
    for name in LOSSES:
        mean = (alone[0][name] + alone[1][name]) / 2
        assert both[name].item() == pytest.approx(mean.item(), rel=1e-4), name


@pytest.mark.parametrize("what", ["no tags", "no proposals"])
def test_images_that_teach_nothing(what):
    model = network()
    count = 0 if what == "no proposals" else 12
    labels = [] if what == "no tags" else [1]
    found = losses(model, [training_sample(40, 56, labels, count=count)])
    assert all(loss.item() == 0 for loss in found.values())
    sum(found.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    for parameter in trained:
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_a_tag_outside_the_classes():
    with pytest.raises(DataError, match=r"class ids \[7\] but MODEL.CIM.NUM_CLASSES is 3"):
        losses(network(), [training_sample(40, 56, [7])])


def test_chunks_change_nothing():
    model, sample = network(), training_sample(40, 56, [0, 2])
    whole = losses(model, [sample])
    sum(whole.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.roi_heads.chunk = 5
    parts = losses(model, [sample])
    sum(parts.values()).backward()
    for name in LOSSES:
        assert parts[name].item() == pytest.approx(whole[name].item(), rel=1e-5)
    for name, gradient in gradients.items():
        found = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_fused_convolution_is_that_of_both_halves():
    head = network().roi_heads.head
    regions, crops = torch.rand(4, 32, 3, 3), torch.rand(4, 3, 3) > 0.5
    both = torch.cat([regions, regions * crops[:, None]], dim=1)
    plain = functional.conv2d(both, head.fuse.weight, head.fuse.bias, padding=1).relu()
    torch.testing.assert_close(head.fused(regions, crops), plain)


def test_masks_matter_unless_switched_off():
    sample = serving_sample(40, 56)
    other = serving_sample(40, 56)
    for _, found in other["views"]:
        found.proposal_crops = ~found.proposal_crops
    model = network().eval()
    assert not torch.equal(*model.scores([sample, other]))
    cfg = tiny_cim_cfg()
    cfg.MODEL.CIM.MASK_GUIDED = False
    model = network(cfg).eval()
    assert torch.equal(*model.scores([sample, other]))


def test_detections():
    model, sample = network().eval(), serving_sample(40, 56, [2])
    found = model([sample])[0]
    instances = found["instances"]
    masks = sample["regions"].decode(instances.proposal_index.numpy())
    np.testing.assert_array_equal(instances.pred_masks, masks)
    values = found["scores"][instances.proposal_index, instances.pred_classes]
    assert torch.equal(values, instances.scores)
    assert set(instances.pred_classes.tolist()) == {0, 1, 2}
    model.targets = "tags"
    chosen = model([sample])[0]["instances"]
    assert set(chosen.pred_classes.tolist()) == {2}
    assert chosen.scores.tolist() == sorted(chosen.scores.tolist(), reverse=True)
    untagged = {k: v for k, v in sample.items() if k != "image_labels"}
    assert len(model([untagged])[0]["instances"]) == 0


def test_an_image_without_proposals():
    found = network().eval()([serving_sample(40, 56, count=0)])[0]
    assert len(found["instances"]) == 0
    assert found["instances"].pred_masks.shape == (0, 40, 56)
    assert found["scores"].shape == (0, 3)


def test_class_agnostic_integrity_and_box_overlaps():
    cfg = tiny_cim_cfg()
    cfg.MODEL.CIM.CLASS_AGNOSTIC_INTEGRITY = True
    cfg.MODEL.CIM.MINING.OVERLAP = "box"
    cfg.MODEL.CIM.MINING.COMPLETE = False
    model = network(cfg)
    found = losses(model, [training_sample(40, 56, [0, 2])])
    assert all(torch.isfinite(loss) for loss in found.values())
    assert model.eval()([serving_sample(40, 56)])[0]["scores"].shape == (12, 3)


def test_box_area_filter():
    cfg = tiny_cim_cfg()
    cfg.MODEL.CIM.DETECTION.AREA_RANGE = (0.0, 0.2)
    sample = serving_sample(40, 56)
    found = network(cfg).eval()([sample])[0]["instances"]
    boxes = sample["proposals"].proposal_boxes.tensor[found.proposal_index]
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    assert len(found)
    assert (sides.prod(dim=1) <= 0.2 * 40 * 56).all()


def test_an_unknown_feature():
    cfg = tiny_cim_cfg()
    cfg.MODEL.CIM.IN_FEATURE = "res9"
    with pytest.raises(UsageError, match="MODEL.CIM.IN_FEATURE names 'res9'"):
        build_model(cfg)
