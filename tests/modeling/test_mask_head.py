import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import build_mask_head, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from wsis.config import get_wsis_cfg
from wsis.errors import UsageError
from wsis.modeling.mask_head import confident_mask_loss, crop_any, eroded_targets

SIZE, SIDE, CLASSES = (40, 50), 14, 3


def instances(count=5, seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([30.0, 20.0])
    extent = 4 + torch.rand(count, 2, generator=generator) * 14
    found = Instances(SIZE)
    found.proposal_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    found.gt_classes = torch.randint(0, CLASSES, (count,), generator=generator)
    found.gt_masks = BitMasks(torch.rand(count, *SIZE, generator=generator) < 0.5)
    for name, value in fields.items():
        found.set(name, value)
    return found


def logits_of(*batch, classes=CLASSES):
    count = sum(len(one) for one in batch)
    generator = torch.Generator().manual_seed(9)
    shape = (count, classes, SIDE, SIDE)
    return torch.randn(shape, generator=generator).requires_grad_()


def loss_and_gradient(function, batch, classes=CLASSES, **options):
    logits = logits_of(*batch, classes=classes)
    with EventStorage():
        loss = function(logits, batch, **options)
    loss.backward()
    return loss.item(), logits.grad


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_without_options_it_is_the_stock_loss(classes):
    batch = [instances(4), instances(0), instances(3, seed=1)]
    ours = loss_and_gradient(confident_mask_loss, batch, classes)
    stock = loss_and_gradient(mask_rcnn_loss, batch, classes)
    assert ours[0] == pytest.approx(stock[0], rel=1e-6)
    torch.testing.assert_close(ours[1], stock[1])


def test_only_the_confident_count():
    sure = torch.tensor([True, False, True, False, True])
    every = instances(5, gt_confidence=torch.where(sure, 0.96, 0.95))
    loss, gradient = loss_and_gradient(confident_mask_loss, [every], min_confidence=0.95)
    logits = logits_of(every)
    with EventStorage():
        expected = mask_rcnn_loss(logits[sure], [every[sure]])
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert not gradient[~sure].any()
    assert gradient[sure].any()


def test_ignored_cells_do_not_count():
    found = instances(2)
    ignored = torch.zeros(2, *SIZE, dtype=torch.bool)
    x0, y0, x1, y1 = found.proposal_boxes.tensor[0].round().int().tolist()
    ignored[0, :, : (x0 + x1) // 2] = True
    found.gt_ignore_masks = BitMasks(ignored)
    loss, gradient = loss_and_gradient(confident_mask_loss, [found], use_ignore=True)
    own = gradient[0, found.gt_classes[0]]
    assert not own[:, : SIDE // 2 - 1].any()
    assert own[:, SIDE // 2 + 1 :].all()
    assert gradient[1, found.gt_classes[1]].all()
    assert loss_and_gradient(confident_mask_loss, [found])[0] != loss


def test_nothing_left_is_zero_with_a_graph():
    found = instances(3, gt_confidence=torch.zeros(3))
    loss, gradient = loss_and_gradient(confident_mask_loss, [found], min_confidence=0.95)
    assert loss == 0
    assert gradient.shape[0] == 3
    assert not gradient.any()
    everything = BitMasks(torch.ones(3, *SIZE, dtype=torch.bool))
    found = instances(3, gt_ignore_masks=everything)
    assert loss_and_gradient(confident_mask_loss, [found], use_ignore=True)[0] == 0
    assert loss_and_gradient(confident_mask_loss, [instances(0)])[0] == 0


def test_a_missing_confidence_means_trust():
    batch = [instances(3)]
    stock = loss_and_gradient(mask_rcnn_loss, batch)[0]
    assert loss_and_gradient(confident_mask_loss, batch, min_confidence=0.95)[0] == pytest.approx(
        stock, rel=1e-6
    )


def test_any_touch_of_an_ignored_pixel_counts():
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 10, 12] = True
    box = torch.tensor([[4.0, 4.0, 32.0, 32.0]])  # cells of two pixels
    touched = crop_any(BitMasks(mask), box, SIDE)[0]
    assert touched[3, 4]
    assert touched.sum() <= 4
    assert not BitMasks(mask).crop_and_resize(box, SIDE).any()


def test_eroded_targets_by_hand():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 2:6] = True
    same = eroded_targets(mask, torch.tensor([[0.4, -3.0, 8.4, 9.0]]), 8)
    torch.testing.assert_close(same, mask)
    half = eroded_targets(mask, torch.tensor([[1.0, 1.0, 7.0, 7.0]]), 3)
    assert half[0].tolist() == [[False] * 3, [False, True, False], [False] * 3]


def head(**options):
    cfg = get_wsis_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = CLASSES
    keys = cfg.MODEL.ROI_MASK_HEAD
    keys.NAME, keys.NUM_CONV, keys.CONV_DIM = "ConfidenceMaskHead", 1, 8
    for name, value in options.items():
        setattr(keys, name, value)
    torch.manual_seed(0)
    return build_mask_head(cfg, ShapeSpec(channels=4, width=7, height=7))


def test_the_registered_head():
    found = instances(5, gt_confidence=torch.tensor([0.0, 1, 1, 0, 0]))
    features = torch.rand(5, 4, 7, 7)
    losses = {}
    for name, options in {
        "stock": {},
        "rule": {"MIN_CONFIDENCE": 0.95},
        "eroded": {"TARGETS": "original"},
    }.items():
        module = head(**options).train()
        with EventStorage():
            losses[name] = module(features, [found])["loss_mask"].item()
    stock = head().train()
    with EventStorage():
        assert losses["stock"] == mask_rcnn_loss(stock.layers(features), [found]).item()
    assert len(set(losses.values())) == 3


def test_it_predicts_as_the_stock_head():
    module = head(MIN_CONFIDENCE=0.95).eval()
    found = Instances(SIZE)
    found.pred_classes = torch.tensor([0, 2])
    assert module(torch.rand(2, 4, 7, 7), [found])[0].pred_masks.shape == (2, 1, SIDE, SIDE)


def test_unknown_targets():
    with pytest.raises(UsageError, match="TARGETS is 'soft'; it must be detectron2 or original"):
        head(TARGETS="soft")
