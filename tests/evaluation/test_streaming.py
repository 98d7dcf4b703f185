"""Records packed into arrays: nothing lost, little memory, any number of processes."""

import copy
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsis.evaluation import streaming
from wsis.evaluation.coco import CocoMeasure
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.streaming import KeyedRecords, RecordTable, StreamingEvaluation
from wsis.evaluation.voc import VocMeasure

from tests.evaluation.cases import random_pair
from tests.evaluation.sharding import run_sharded

NAMES = ("cat", "dog", "bird", "cow")


def pair(scores, counts=()):
    numbers = np.array(counts, dtype=np.int64).reshape(-1, 2)
    return {"scores": np.array(scores, dtype=np.float64), "counts": numbers}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(allow_nan=True), max_size=4),
            st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), max_size=3),
        ),
        max_size=6,
    ),
    st.randoms(),
)
def test_packing_loses_nothing(rows, random):
    given = [pair(*row) for row in rows]
    middle = len(given) // 2
    table = RecordTable.join([RecordTable.of(given[:middle]), RecordTable.of(given[middle:])])
    order = list(range(len(given)))
    random.shuffle(order)
    table = table.take(np.array(order, dtype=np.int64))
    assert len(table) == len(given)
    for name, dtype, empty in (("scores", np.float64, 0), ("counts", np.int64, (0, 2))):
        parts = [given[i][name] for i in order]
        expected = np.concatenate([np.zeros(empty, dtype), *parts])
        found = table.column(name, dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
        assert table.counts(name).tolist() == [len(part) for part in parts]


def test_small_numbers_take_small_types():
    table = RecordTable.of([pair([0.5, -np.inf], [[1, -100]]), pair([0.25], [[3, 127]])])
    assert table.column("counts", np.int8) is table.column("counts", np.int8)
    assert table.column("scores", np.float32) is table.column("scores", np.float32)
    exact = RecordTable.of([pair([0.1], [[0, 2**40]])])
    assert exact.column("scores", np.float64).tolist() == [0.1]
    assert exact.column("counts", np.int64).tolist() == [[0, 2**40]]


@pytest.mark.parametrize("world_size", [1, 3])
def test_keys_are_ordered_and_count_once(monkeypatch, world_size):
    monkeypatch.setattr(streaming, "_CHUNK", 4)
    keys = [f"{number}é" for number in (30, 4, 111, 5, 2, 77, 9, 8, 60, 41, 3)]

    def process(rank):
        store = KeyedRecords(1)
        for key in keys[rank::world_size]:
            store.add(key, [pair([-1.0, 0.0])])
        for key in keys[rank::world_size]:  # measured again, in another chunk
            store.add(key, [pair([float(key[:-1])])])
        if rank:  # a sampler repeats an image; the first process's record stands
            store.add(keys[0], [pair([-2.0])])
        (alone,) = store.gather(distributed=False)
        assert len(alone) == len({*keys[rank::world_size], *keys[: rank and 1]})
        store.gather()
        return store.gather()  # asking twice changes nothing

    (table,), *others = run_sharded(monkeypatch, world_size, process)
    assert others == [None] * (world_size - 1)
    expected = [float(key[:-1]) for key in sorted(keys)]
    assert table.column("scores", np.float64).tolist() == expected


def test_no_images():
    (table,) = KeyedRecords(1).gather()
    assert len(table) == 0
    assert table.column("scores", np.float64).shape == (0,)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_packed_figures_are_those_of_the_records(monkeypatch, world_size):
    monkeypatch.setattr(streaming, "_CHUNK", 4)
    pairs = [random_pair(i) for i in range(23)]

    def measures():
        boxes = CocoMeasure(NAMES, iou_type="bbox")
        return [VocMeasure(NAMES), CocoMeasure(NAMES), boxes, QualityMeasure(NAMES)]

    def process(rank):
        stream = StreamingEvaluation(measures())
        for one in pairs[rank::world_size][::-1]:
            stream.add(one.key, one)
        return stream.finish()

    found = run_sharded(monkeypatch, world_size, process)[0]
    for measure in measures():
        expected = measure.summarise([measure.measure(one) for one in pairs])
        np.testing.assert_array_equal(
            list(found[measure.protocol].values()), list(expected.values())
        )


class Again:
    """Gives a measure's records, made before, as new objects."""

    def __init__(self, measure, pairs):
        self.protocol = measure.protocol
        self.known = {pair.key: measure.measure(pair) for pair in pairs}

    def measure(self, pair):
        return copy.deepcopy(self.known[pair.key])


def test_an_image_takes_few_bytes():
    """As objects it took 10 kB with these measures."""
    pairs = [random_pair(i) for i in range(16)]
    measures = [VocMeasure(NAMES), CocoMeasure(NAMES), QualityMeasure(NAMES)]
    stream = StreamingEvaluation([Again(measure, pairs) for measure in measures])
    images = 8 * streaming._CHUNK
    tracemalloc.start()
    try:
        for number in range(images):
            stream.add(f"{number:012d}", pairs[number % len(pairs)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / images < 500
