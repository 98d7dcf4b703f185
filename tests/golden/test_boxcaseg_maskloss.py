"""boxcaseg_maskloss: the retraining's mask loss and its targets."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from wsis.modeling.mask_head import confident_mask_loss, eroded_targets

from tests.golden.conftest import assert_close


def masks_of(arrays):
    width = int(arrays["image_hw"][1])
    masks = np.unpackbits(arrays["gt_masks"], axis=-1)[..., :width].astype(bool)
    return torch.from_numpy(masks)


def foreground(arrays, confidences):
    """The proposals with an object, as Detectron2 gives them to a mask head."""
    rows = np.flatnonzero(arrays["labels"] > 0)
    matched = torch.from_numpy(arrays["matched"][rows])
    found = Instances(tuple(arrays["image_hw"].tolist()))
    found.proposal_boxes = Boxes(torch.from_numpy(arrays["proposals"][rows]))
    found.gt_classes = torch.from_numpy(arrays["labels"][rows]).long() - 1
    found.gt_masks = BitMasks(masks_of(arrays)[matched])
    found.gt_confidence = torch.from_numpy(confidences)[matched]
    return rows, found


def loss_of(arrays, confidences, threshold):
    logits = torch.from_numpy(arrays["mask_logits"].astype(np.float32)).requires_grad_()
    rows, found = foreground(arrays, confidences)
    with EventStorage():
        loss = confident_mask_loss(
            logits[rows, 1:], [found], min_confidence=threshold, targets="original"
        )
    loss.backward()
    return rows, loss.item(), logits.grad.numpy()


def test_targets(arrays):
    rows, found = foreground(arrays, arrays["confidences"])
    side = arrays["mask_logits"].shape[-1]
    expected = np.unpackbits(arrays["targets"], axis=-1)[..., :side].astype(bool)
    targets = eroded_targets(found.gt_masks.tensor, found.proposal_boxes.tensor, side)
    np.testing.assert_array_equal(targets, expected)


def test_published_loss(arrays):
    threshold = float(arrays["threshold"])
    rows, loss, gradient = loss_of(arrays, arrays["confidences"], threshold)
    assert_close(loss, arrays["loss"], 1e-6, "loss")
    expected = arrays["grad_gt_class"]
    found = gradient[rows, arrays["labels"][rows]]
    assert_close(found, expected, 1e-4 * np.abs(expected).max(), "gradient")
    bits = np.unpackbits(arrays["grad_nonzero"])[: gradient.size].astype(bool)
    np.testing.assert_array_equal(gradient.ravel() != 0, bits)


def test_all_confident_and_none(arrays):
    threshold = float(arrays["threshold"])
    sure = np.ones_like(arrays["confidences"])
    assert_close(loss_of(arrays, sure, threshold)[1], arrays["loss_stock"], 1e-6, "stock")
    assert_close(loss_of(arrays, sure * 0, 0.0)[1], arrays["loss_stock"], 1e-6, "rule off")
    _, loss, gradient = loss_of(arrays, 0.5 * sure, threshold)
    assert loss == float(arrays["loss_none_confident"])
    assert not gradient.any()
