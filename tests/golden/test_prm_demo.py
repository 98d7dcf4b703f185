"""prm_demo: retrieval with the proposals of a real photograph, which lie outside the repository."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plain import difference
from plain.proposals import our_retrieval, plain_retrieval, scene
from wsis.data.proposals.readers import read_proposals
from wsis.layers.retrieval import prepare_proposals, retrieval_scores, retrieve_instances

from tests.golden.conftest import assert_close
from tests.golden.packed import unpack

DATA = Path(os.environ.get("WSIS_DATA", "../shared/data"))


@pytest.fixture(scope="module")
def arrays(golden):
    if not (golden.folder / "prm_demo.npz").is_file():
        # made from photographs: never in the repository
        golden = replace(golden, folder=DATA.parent / "golden")
    return golden.load("prm_demo")


@pytest.fixture(scope="module")
def proposals(arrays):
    path = DATA / "prm_samples" / f"sample{int(arrays['sample'])}.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set WSIS_DATA")
    return read_proposals(path, kind="prm", size=tuple(arrays["proposal_shape"].tolist()))


def test_decoded_masks(arrays, proposals):
    np.testing.assert_array_equal(proposals.regions.areas, arrays["proposal_areas"])
    expected = unpack(arrays["decoded_first3"], (3, *arrays["proposal_shape"]))
    np.testing.assert_array_equal(proposals.regions.decode([0, 1, 2]), expected)


def test_cases(golden, arrays, proposals):
    classes, class_maps = arrays["peaks"][:, 1], arrays["crm"][0]
    for case in golden.text(arrays["settings"]):
        name, side = case["name"], case["size"]
        maps = arrays["prm" if case["maps"] == "rand" else "prm_ring"]
        repeat = side // maps.shape[1]
        maps = maps.repeat(repeat, axis=1).repeat(repeat, axis=2) / np.float32(repeat**2)
        prepared = prepare_proposals(proposals.first(100).regions, (side, side))
        factors = tuple(case["param"])
        scores = retrieval_scores(prepared, class_maps, classes, maps, factors=factors)
        expected = arrays[f"{name}_scores"]
        np.testing.assert_array_equal(np.isnan(scores), np.isnan(expected), err_msg=name)
        assert_close(np.nan_to_num(scores), np.nan_to_num(expected), 1e-5, name)
        found = retrieve_instances(prepared, class_maps, classes, maps, factors=factors)
        assert len(found.peaks) == arrays[f"{name}_n"], name
        np.testing.assert_array_equal(found.classes, arrays[f"{name}_category"], err_msg=name)
        masks = unpack(arrays[f"{name}_masks"], (len(found.peaks), side, side))
        decoded = prepared.regions.decode(found.proposals)
        np.testing.assert_array_equal(decoded, masks, err_msg=name)
        sums = found.peak_maps.sum(axis=(1, 2), dtype=np.float64)
        assert_close(sums, arrays[f"{name}_prm_sums"], 1e-4, name)


@pytest.mark.parametrize("number", range(5))
def test_all_samples_are_read(number):
    path = DATA / "prm_samples" / f"sample{number}.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set WSIS_DATA")
    proposals = read_proposals(path)
    assert len(proposals) == 200
    assert (proposals.regions.areas > 0).all()
    regions = proposals.regions
    assert sum(a.nbytes for a in (regions.labels, regions.starts, regions.atoms)) < 4e6


@pytest.mark.parametrize("number", range(5))
def test_retrieval_on_each_sample_equals_the_plain_way(number):
    """The golden file has one of the five; on all, ours must find what a plain loop finds."""
    path = DATA / "prm_samples" / f"sample{number}.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set WSIS_DATA")
    regions = read_proposals(path, kind="prm").first(100).regions
    _, *maps = scene(3)
    expected = plain_retrieval(regions.decode(), *maps)
    assert len(expected[0]) > 0
    assert difference(expected, our_retrieval(regions, *maps)) < 1e-7
