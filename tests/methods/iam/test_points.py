"""Masks filled from given points: a point for each object instead of found peaks."""

import numpy as np
import pytest
from wsis.data.annotations import points_of
from wsis.data.artifacts import ProductReader
from wsis.data.builtin import get_dataset_dicts

from tests.methods.iam.test_pipeline import EXTRA
from tests.tiny import ROOT, train_net_here

TINY = [
    (key.replace("filled_instances.", "filled_points."), value)
    for key, value in EXTRA
    if "MAX_PEAKS" not in key
]
PRM = """\
_BASE_: {root}/configs/prm_shapes.yaml
STAGES:
  point_peak_classifier: {{_BASE_: peak_classifier}}
  proposals:
  retrieved_points: {{MODEL: {{PRM: {{NMS_THRESHOLD: 1.1}}}}}}
  pseudo_labels:
  mask_rcnn:
"""


@pytest.mark.parametrize("method", ["iam", "prm"])
def test_a_mask_for_each_point(method, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    config, stage = ROOT / "configs" / "iam_shapes_point.yaml", "filled_points"
    if method == "prm":
        config, stage = tmp_path / "prm_point.yaml", "retrieved_points"
        config.write_text(PRM.format(root=ROOT))
    extra = TINY if method == "iam" else [(k, v) for k, v in TINY if not k.startswith("filled")]
    done = train_net_here(
        *("--until-stage", stage),
        datasets=shapes_root, output=tmp_path / "run", config=config, extra=extra,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "run").glob(f"*_{stage}")
    product, found = ProductReader(folder, stage), 0
    for record in get_dataset_dicts("shapes_train"):
        if record["image_key"] not in set(product.keys()):
            continue
        points, classes = points_of(record)
        arrays = product[record["image_key"]]
        assert arrays["peaks"][:, 0].tolist() == classes.tolist()
        size = np.array([record["width"], record["height"]])
        # 2 x 2 cells of 32 pixels, enlarged corner to corner, end in the middle of the picture
        off = np.abs(arrays["peak_places"][:, ::-1] - points / size)
        assert off.max(initial=0) <= 0.5
        own = arrays["instance_peaks"] if method == "iam" else np.arange(len(arrays["classes"]))
        assert len(set(own.tolist())) == len(own) <= len(points)
        found += len(own)
    assert found > 0
