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
from wsis.evaluation.streaming import Measure, column, pack, unpack
from wsis.evaluation.voc import VocMeasure

from tests.evaluation.cases import figures_of, random_pair
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
    records = [r for half in (given[:middle], given[middle:]) if half for r in unpack(pack(half))]
    order = list(range(len(given)))
    random.shuffle(order)
    records = [records[i] for i in order]
    for name, dtype, *shape in (("scores", np.float64), ("counts", np.int64, 2)):
        parts = [given[i][name] for i in order]
        expected = np.concatenate([np.zeros((0, *shape), dtype), *parts])
        found = column(records, name, dtype, *shape)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
        assert [len(record[name]) for record in records] == [len(part) for part in parts]


def test_small_numbers_take_small_types():
    packed = pack([pair([0.5, -np.inf], [[1, -100]]), pair([0.25], [[3, 127]])])
    assert [array.dtype for array in packed["counts"]] == [np.int8, np.int8]
    assert [array.dtype for array in packed["scores"]] == [np.float32, np.int8]
    (exact,) = unpack(pack([pair([0.1], [[0, 2**40]])]))
    assert exact["scores"].tolist() == [0.1]
    assert exact["counts"].tolist() == [[0, 2**40]]


class Itself(Measure):
    """Takes records as they are."""

    def measure(self, pair):
        return pair


@pytest.mark.parametrize("world_size", [1, 3])
def test_keys_are_ordered_and_count_once(monkeypatch, world_size):
    monkeypatch.setattr(streaming, "_CHUNK", 4)
    keys = [f"{number}é" for number in (30, 4, 111, 5, 2, 77, 9, 8, 60, 41, 3)]

    def process(rank):
        store = Itself("itself")
        for key in keys[rank::world_size]:
            store.add(key, pair([-1.0, 0.0]))
        for key in keys[rank::world_size]:  # measured again, in another chunk
            store.add(key, pair([float(key[:-1])]))
        if rank:  # a sampler repeats an image; the first process's record stands
            store.add(keys[0], pair([-2.0]))
        alone = store.gather(distributed=False)
        assert len(alone) == len({*keys[rank::world_size], *keys[: rank and 1]})
        store.gather()
        return store.gather()  # asking twice changes nothing

    records, *others = run_sharded(monkeypatch, world_size, process)
    assert others == [None] * (world_size - 1)
    expected = [float(key[:-1]) for key in sorted(keys)]
    assert column(records, "scores", np.float64).tolist() == expected


def test_no_images():
    assert Itself("itself").gather() == []
    assert column([], "scores", np.float64).shape == (0,)
    assert column([], "scores", np.float64, 2, 3).shape == (0, 2, 3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_packed_figures_are_those_of_the_records(monkeypatch, world_size):
    monkeypatch.setattr(streaming, "_CHUNK", 4)
    pairs = [random_pair(i) for i in range(23)]

    def measures():
        boxes = CocoMeasure(NAMES, iou_type="bbox")
        return [VocMeasure(NAMES), CocoMeasure(NAMES), boxes, QualityMeasure(NAMES)]

    def process(rank):
        return figures_of(measures(), pairs[rank::world_size][::-1])

    found = run_sharded(monkeypatch, world_size, process)[0]
    for measure in measures():
        expected = measure.summarise([measure.measure(one) for one in pairs])
        np.testing.assert_array_equal(
            list(found[measure.protocol].values()), list(expected.values())
        )


def test_an_image_takes_few_bytes():
    """As objects it took 10 kB with these measures."""
    pairs = [random_pair(i) for i in range(16)]
    measures = [VocMeasure(NAMES), CocoMeasure(NAMES), QualityMeasure(NAMES)]
    known = [[measure.measure(pair) for pair in pairs] for measure in measures]
    stores = [Itself(measure.protocol) for measure in measures]
    images = 8 * streaming._CHUNK
    tracemalloc.start()
    try:
        for number in range(images):
            key = f"{number:012d}"
            for store, records in zip(stores, known, strict=True):
                store.add(key, copy.deepcopy(records[number % len(pairs)]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / images < 500
