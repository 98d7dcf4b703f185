"""Masks of artifacts pass into pseudo labels as the run lengths that they are kept as."""

import numpy as np
import pytest
from wsis.data.artifacts import ProductReader, RunLengths, write_artifact
from wsis.data.pseudo_labels import _READ, write_pseudo_labels
from wsis.data.working_size import working_size

RECORD = {"file_name": "a.jpg", "image_id": 1, "image_key": "a", "height": 9, "width": 12}


@pytest.mark.parametrize("limit", [0, 40])  # none, and one that makes masks smaller
@pytest.mark.parametrize("boxes", [True, False])
def test_the_bytes_are_those_of_decoded_masks(tmp_path, limit, boxes):
    size = working_size((9, 12), limit)
    masks = np.random.default_rng(0).random((3, *size)) < 0.3
    masks[1] = False
    arrays = {"classes": np.arange(3), "scores": np.array([0.9, 0.5, 0.1]), "masks": masks}
    arrays |= {"ignore": ~masks[::-1], "confidence": np.full(3, 0.5), "left_alone": np.zeros(3)}
    if boxes:
        arrays["boxes"] = np.tile(np.array([0, 1, 5, 4], dtype=np.float32), (3, 1))
    reader = ProductReader(tmp_path / "stage", "instances")
    write_artifact(reader.path("a"), arrays)
    kept = reader.read("a", _READ)
    assert isinstance(kept["masks"], RunLengths)
    assert kept.keys() == arrays.keys() - {"left_alone"}
    assert np.array_equal(list(kept["masks"]), masks)
    for name, given in (("decoded", reader["a"]), ("kept", kept)):
        write_pseudo_labels(
            tmp_path / name,
            [RECORD],
            read_instances=lambda _, given=given: given,
            class_names=("owl", "wren", "robin"),
            info={},
            min_score=0.2,
            max_pixels=limit,
        )
    assert (tmp_path / "kept").read_bytes() == (tmp_path / "decoded").read_bytes()
    assert (tmp_path / "kept").read_text().count("segmentation") == 1 + boxes
