import pickle

import numpy as np
import pytest
import torch
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import encode_artifact, read_artifact
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.errors import DataError
from wsis.layers.regions import Regions
from wsis.methods.cim.clusters import cluster_proposals
from wsis.methods.cim.labels import (
    derive_crops,
    derive_original_clusters,
    derive_peak_clusters,
    derive_point_clusters,
)
from wsis.methods.cim.mappers import crops_from_artifact
from wsis.methods.cim.stages import peaks_artifact
from wsis.modeling.peak_responses import MapFrame

from tests.methods.cim.networks import boxes_as_masks

SIZE = (24, 36)


@pytest.fixture(scope="module")
def regions():
    return Regions.from_masks(boxes_as_masks(15, SIZE))


@pytest.fixture(scope="module")
def artifacts(regions):
    return {"proposals": proposals_artifact(by_rank(regions))}


def record(**more):
    found = {"image_key": "2007_000032", "image_id": 7, "height": SIZE[0], "width": SIZE[1]}
    return found | {"image_labels": [1]} | more


def test_crops(regions, artifacts):
    boxes, crops = crops_from_artifact(derive_crops(record(), artifacts, get_wsis_cfg()))
    np.testing.assert_array_equal(boxes, regions.boxes)
    np.testing.assert_array_equal(crops, regions.crops(7))


def test_clusters_of_peaks(regions, artifacts):
    output = {
        "peaks": torch.tensor([[1, 3, 3], [0, 6, 1]]),
        "values": torch.tensor([1.0, 2.0]),
        "maps": torch.zeros(2, 8, 8),
        "classes": torch.tensor([0, 1]),
        "frame": MapFrame((24, 36), stride=4),
    }
    stored = peaks_artifact(output)
    np.testing.assert_allclose(
        stored["peak_places"], [[12.5 / 24, 12.5 / 36], [1.0, 4.5 / 36]], rtol=1e-6
    )
    found = derive_peak_clusters(record(), artifacts | {"class_peaks": stored}, get_wsis_cfg())
    expected = cluster_proposals(regions, np.array([[9, 13], [18, 4]]), np.array([1, 0]))
    np.testing.assert_array_equal(found["ids"], expected.ids)
    np.testing.assert_array_equal(found["classes"], expected.classes)


def test_clusters_of_points(regions, artifacts, tmp_path):
    annotations = [
        {"category_id": 2, "point": [13.7, 9.2], "bbox": [0, 0, 5, 5]},
        {"category_id": 0, "point": [36.0, 24.0]},  # on the far border
        {"category_id": 1, "point": [1.0, 1.0], "iscrowd": 1},
    ]
    found = derive_point_clusters(record(annotations=annotations), artifacts, get_wsis_cfg())
    expected = cluster_proposals(regions, np.array([[9, 13], [23, 35]]), np.array([2, 0]))
    np.testing.assert_array_equal(found["ids"], expected.ids)
    np.testing.assert_array_equal(found["classes"], expected.classes)
    cfg = get_wsis_cfg()
    cfg.MODEL.CIM.LABEL.POINTS = str(tmp_path)
    (tmp_path / "2007_000032.txt").write_text("13.7 9.2 2 1\n36 24 0 1\n")
    again = derive_point_clusters(record(), artifacts, cfg)
    np.testing.assert_array_equal(again["ids"], expected.ids)


def test_tags_without_points(artifacts):
    with pytest.raises(DataError, match="2007_000032 has tags but no points"):
        derive_point_clusters(record(annotations=[]), artifacts, get_wsis_cfg())
    crowd = {"point": [1, 1], "iscrowd": 1, "category_id": 0}
    bare = derive_point_clusters(record(annotations=[crowd]), artifacts, get_wsis_cfg())
    assert set(bare["ids"]) == {1}
    bare = derive_point_clusters(record(image_labels=[]), artifacts, get_wsis_cfg())
    assert set(bare["ids"]) == {1}


def test_clusters_of_the_original(artifacts, tmp_path):
    cfg = get_wsis_cfg()
    cfg.MODEL.CIM.LABEL.FILE = str(tmp_path / "labels.pkl")
    matrix = np.zeros((15, 21), dtype=np.float32)
    matrix[4, 3], matrix[5, 0] = 1, 2
    content = {"indexes": [2007000032], "mat": [matrix], "score": []}
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(content))
    found = derive_original_clusters(record(), artifacts, cfg)
    assert found["ids"].nonzero()[0].tolist() == [4, 5]
    assert found["classes"][[4, 5]].tolist() == [3, 0]
    with pytest.raises(DataError, match="has no image 2007000033"):
        derive_original_clusters(record(image_key="2007_000033"), artifacts, cfg)
    cfg.MODEL.CIM.NUM_CLASSES = 2
    with pytest.raises(DataError, match="has class 3, but the data set has 2 classes"):
        derive_original_clusters(record(), artifacts, cfg)
    fewer = {"proposals": proposals_artifact(by_rank(Regions.from_masks(boxes_as_masks(3, SIZE))))}
    with pytest.raises(DataError, match="has 15 proposals, the stage proposals 3"):
        derive_original_clusters(record(), fewer, cfg)


def test_proposals_of_another_size(artifacts):
    with pytest.raises(DataError, match="run --from-stage proposals --force"):
        derive_crops(record(height=25), artifacts, get_wsis_cfg())


def test_nothing_quadratic_is_stored(regions, artifacts):
    crops = derive_crops(record(), artifacts, get_wsis_cfg())
    clusters = derive_point_clusters(record(image_labels=[]), artifacts, get_wsis_cfg())
    for arrays in (crops, clusters):
        for name, value in arrays.items():
            assert value.shape[:2] != (15, 15), name


def test_maps_for_the_report(artifacts, tmp_path):
    annotations = [{"category_id": 2, "point": [13.7, 9.2]}]
    found = derive_point_clusters(record(annotations=annotations), artifacts, get_wsis_cfg())
    path = tmp_path / "a.npz"
    path.write_bytes(encode_artifact(found))
    found = read_artifact(path)
    maps, labels = found["cluster_maps"], found["cluster_labels"]
    assert maps.shape == (len(labels), *SIZE)
    assert maps.max() == 1
    assert set(labels.tolist()) <= {2, -1}
