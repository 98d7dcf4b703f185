"""prm_retrieval: resized proposals, contours, backgrounds, scores, suppression and merging."""

import numpy as np
import pytest
from wsis.layers.regions import Regions
from wsis.layers.retrieval import (
    background_map,
    byte_map,
    contour_pixels,
    prepare_proposals,
    retrieval_scores,
    retrieve_instances,
)

from tests.golden.conftest import assert_close
from tests.golden.packed import unpack


@pytest.fixture(scope="module")
def regions(arrays):
    return Regions.from_masks(unpack(arrays["proposals"], arrays["proposals_shape"]))


def factors_of(case):
    param = case["param"]
    return [tuple(p) for p in param] if isinstance(param[0], list) else tuple(param)


def test_class_maps_and_backgrounds(golden, arrays):
    size = arrays["prm"].shape[1:]
    for values, expected in zip(arrays["crm"][0], arrays["crm_resized"], strict=True):
        np.testing.assert_array_equal(byte_map(values, size), expected)
    case = next(c for c in golden.text(arrays["settings"]) if c["name"] == "demo")
    expected = unpack(arrays["demo_bg"], arrays["prm"].shape)
    for row, class_id in enumerate(arrays["peaks"][:, 1]):
        background = background_map(arrays["crm"][0, class_id], size, case["param"][0])
        np.testing.assert_array_equal(background, expected[row])


def test_resized_masks_areas_and_contours(arrays, regions):
    size = arrays["prm"].shape[1:]
    prepared = prepare_proposals(regions, size)
    whole = regions.areas == regions.labels.size
    expected = unpack(arrays["proposals_resized"], (len(regions), *size))
    np.testing.assert_array_equal(prepared.regions.decode() & ~whole[:, None, None], expected)
    areas = np.where(prepared.valid, prepared.regions.areas, -1)
    np.testing.assert_array_equal(areas, arrays["area"])
    for name in [n for n in arrays if n.startswith("contour") and n[7:].isdigit()]:
        count = len(arrays[name]) * 8 // (size[0] * size[1])
        expected = unpack(arrays[name], (count, size[0] * size[1]))
        for index in np.flatnonzero(~whole[:count]):
            found = contour_pixels(prepared.regions, int(index), int(name[7:]))
            np.testing.assert_array_equal(found, np.flatnonzero(expected[index]))


def test_cases(golden, arrays, regions):
    peaks, peak_maps, class_maps = arrays["peaks"], arrays["prm"], arrays["crm"][0]
    for case in golden.text(arrays["settings"]):
        name, size = case["name"], peak_maps.shape[1:]
        count = case.get("proposal_count", 100)
        prepared = prepare_proposals(
            regions[:count],
            size,
            contour_width=case.get("contour_width", 5),
            size_limits=tuple(case.get("proposal_size_limit", (0.00002, 0.85))),
        )
        scores = retrieval_scores(
            prepared, class_maps, peaks[:, 1], peak_maps, factors=factors_of(case)
        )
        expected = arrays[f"{name}_scores"]
        counted = expected[:, : len(prepared.regions)]
        assert np.isnan(expected[:, len(prepared.regions) :]).all()
        np.testing.assert_array_equal(np.isnan(scores), np.isnan(counted), err_msg=name)
        assert_close(np.nan_to_num(scores), np.nan_to_num(counted), 1e-5, name)
        winners = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
        winners = np.where(np.isnan(scores).all(axis=1), -1, winners)
        np.testing.assert_array_equal(winners, arrays[f"{name}_best"], err_msg=name)
        found = retrieve_instances(
            prepared,
            class_maps,
            peaks[:, 1],
            peak_maps,
            factors=factors_of(case),
            nms_threshold=case.get("nms_threshold", 0.3),
            merge=case.get("merge_peak_response", True),
        )
        assert len(found.peaks) == arrays[f"{name}_n"], name
        np.testing.assert_array_equal(found.classes, arrays[f"{name}_category"], err_msg=name)
        masks = unpack(arrays[f"{name}_masks"], (len(found.peaks), *size))
        decoded = prepared.regions.decode(found.proposals)
        np.testing.assert_array_equal(decoded, masks, err_msg=name)
        if f"{name}_prms" in arrays:
            expected = arrays[f"{name}_prms"]
            assert_close(found.peak_maps, expected, 1e-6 * float(expected.max()), name)
