from collections import Counter

import numpy as np
import pytest
from detectron2.structures import BoxMode
from wsis.config import get_wsis_cfg
from wsis.data.annotations import boxed_annotations
from wsis.data.stream import StreamBatches, TrainingStream
from wsis.errors import UsageError
from wsis.methods.boxcaseg.samples import (
    CombinedOrder,
    JointSamples,
    joint_samples,
    overlapping,
)


def annotation(*box, **more):
    return {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} | more


def record(key, *annotations, **more):
    size = {"image_key": key, "file_name": f"{key}.jpg", "height": 50, "width": 60}
    return size | {"annotations": list(annotations)} | more


RECORDS = [
    record("a", annotation(0, 0, 10, 10, segmentation=[[1]]), annotation(0, 0, 10, 8)),
    record("s1", salient_file_name="s1.png"),
    record("b"),
    record("c", annotation(5, 5, 9, 9), annotation(0, 0, 9, 9, iscrowd=1), {"point": [1, 2]}),
    record("s2", salient_file_name="s2.png"),
]


def test_one_sample_per_box_then_the_salient_images():
    samples = JointSamples(RECORDS)
    assert [s["image_key"] for s in samples] == ["a", "a", "c", "s1", "s2"]
    assert [len(samples[i]["annotations"]) for i in range(3)] == [1, 1, 1]
    assert samples[1]["annotations"][0]["bbox"] == [0, 0, 10, 8]
    assert "segmentation" not in samples[0]["annotations"][0]
    assert len(boxed_annotations(RECORDS[3])) == 1
    with pytest.raises(IndexError):
        samples[5]
    assert samples.overlapping(0.5) == (0, 1)
    assert samples.overlapping(0.8) == ()


def test_overlap_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 6], [20, 20, 30, 30]])
    # IoU of the first with the others: 0.5 (not above), 0.6; of the second and third 5/6.
    assert overlapping(boxes).tolist() == [True, True, True, False]
    assert overlapping(boxes[[0, 1, 3]]).tolist() == [False] * 3
    assert overlapping(np.zeros((0, 4))).shape == (0,)
    assert overlapping(boxes[:1]).tolist() == [False]


@pytest.mark.parametrize(
    ("boxes", "salient", "batch", "share"),
    [(200, 37, 16, 0.6875), (5, 9, 8, 0.5), (31, 20, 8, 0.6875)],
)
def test_an_epoch(boxes, salient, batch, share):
    order = CombinedOrder(boxes, salient, batch, share)
    found = order.epoch(np.random.default_rng(0))
    assert len(found) == len(order)
    assert len(order) % batch == 0
    wanted = max(int(batch * share), 1)
    shares = [int((part < boxes).sum()) for part in found.reshape(-1, batch)]
    whole = salient // (batch - wanted)
    assert shares[:whole] == [wanted] * len(shares[:whole])
    counts = Counter(found.tolist())
    assert max(counts[i] for i in range(boxes, boxes + salient)) == 1
    # Boxes repeat only after all had their turn.
    times = [counts[i] for i in range(boxes)]
    assert max(times) - min(times) <= 1
    assert not np.array_equal(found, order.epoch(np.random.default_rng(1)))
    np.testing.assert_array_equal(found, order.epoch(np.random.default_rng(0)))


def test_doubtful_boxes_come_in_a_quarter_of_the_epochs():
    order = CombinedOrder(40, 60, 8, 0.5, dropped=(3, 3, 7))
    seen = [order.epoch(np.random.default_rng(seed)) for seed in range(400)]
    share = np.mean([3 in epoch for epoch in seen])
    assert 0.17 < share < 0.33
    assert all(8 in epoch for epoch in seen)
    every = CombinedOrder(2, 8, 4, 0.5, dropped=(0, 1), drop_probability=1.0)
    assert set(every.epoch(np.random.default_rng(0)).tolist()) >= {0, 1}  # else nothing is left


def test_the_stream_follows_the_order():
    order = CombinedOrder(30, 10, 8, 0.5)
    stream = TrainingStream(
        [{"n": i, "image_key": "x"} for i in range(40)], dict, seed=3, order=order
    )
    taken = [stream[position][0]["n"] for position in range(2 * len(order))]
    for epoch in range(2):
        expected = order.epoch(np.random.default_rng([3, epoch]))
        assert taken[epoch * len(order) : (epoch + 1) * len(order)] == expected.tolist()
    # Two processes share each batch, and a resumed one goes on where it was.
    ranks = []
    for rank in (0, 1):
        batches = StreamBatches(stream, 4, rank=rank, world_size=2)
        batches.start = 1
        ranks.append(next(iter(batches)))
    assert sorted(ranks[0] + ranks[1]) == list(range(8, 16))


def test_from_the_config():
    cfg = get_wsis_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 4
    samples, order = joint_samples(RECORDS, cfg)
    assert order is None
    assert len(samples) == 5
    cfg.MODEL.BOXCASEG.SAMPLER.BOX_SHARE = 0.5
    assert joint_samples(RECORDS, cfg)[1].dropped == ()
    cfg.MODEL.BOXCASEG.SAMPLER.DROP_PROBABILITY = 0.75
    assert joint_samples(RECORDS, cfg)[1].dropped == (0, 1)
    cfg.SOLVER.IMS_PER_BATCH = 1
    with pytest.raises(UsageError, match="leaves no place for salient images"):
        joint_samples(RECORDS, cfg)
    cfg.SOLVER.IMS_PER_BATCH = 4
    with pytest.raises(UsageError, match="no salient image"):
        joint_samples([RECORDS[0]], cfg)
    with pytest.raises(UsageError, match="no box to train on"):
        joint_samples([RECORDS[1]], cfg)
