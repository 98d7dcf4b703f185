import numpy as np
import torch
from detectron2.structures import Instances
from wsis.engine.manifest import fingerprint, seen_of_the_data_set
from wsis.engine.pipeline import load_pipeline
from wsis.methods.cim.stages import instances_artifact

from tests.tiny import ROOT


def test_a_moved_point_makes_the_clusters_of_points_stale_and_those_of_peaks_not():
    def inputs(pipeline, stage, point):
        planned = next(p for p in pipeline.stages if p.name == stage)
        annotation = {"category_id": 0, "point": point, "bbox": [0, 0, 5, 5]}
        record = {"image_key": "a", "image_labels": [0], "annotations": [annotation]}
        return fingerprint([record], seen_of_the_data_set(planned.stage))

    points = load_pipeline(ROOT / "configs" / "cim_shapes_point.yaml", [])
    assert inputs(points, "point_clusters", [1, 2]) != inputs(points, "point_clusters", [2, 2])
    peaks = load_pipeline(ROOT / "configs" / "cim_shapes.yaml", [])
    for stage in ("peak_clusters", "complete_instances"):
        assert inputs(peaks, stage, [1, 2]) == inputs(peaks, stage, [2, 2])


def test_backbones_of_the_paper_build():
    from detectron2.modeling import build_backbone

    features = {"cim_voc": 1024, "cim_voc_vgg16": 512, "cim_voc_hrnet48": 2048, "cim_coco": 1024}
    for name, channels in features.items():
        pipeline = load_pipeline(ROOT / "configs" / f"{name}.yaml", [])
        cfg = next(p.cfg for p in pipeline.stages if p.name == "complete_instances")
        with torch.device("meta"):
            shape = build_backbone(cfg).output_shape()[cfg.MODEL.CIM.IN_FEATURE]
        assert shape.channels == channels
        assert (80 if "coco" in name else 20) == cfg.MODEL.CIM.NUM_CLASSES


def test_artifact_of_instances():
    found = Instances((4, 5))
    found.pred_classes, found.scores = torch.tensor([2]), torch.tensor([0.5])
    found.pred_masks, found.proposal_index = torch.ones(1, 4, 5) > 0, torch.tensor([7])
    kept = instances_artifact({"instances": found})
    assert {name: value.dtype for name, value in kept.items()} == {
        "classes": np.int64,
        "scores": np.float32,
        "masks": bool,
        "proposals": np.int64,
    }
