import numpy as np
import torch
from wsis.config import get_wsis_cfg
from wsis.data.mappers import MAPPER_REGISTRY
from wsis.stage import get_stage
from wsis.stages import cam_artifact

NAMES = (
    *("classifier", "cam", "proposals", "pseudo_labels", "mask_rcnn"),
    "supervised_mask_rcnn",
)


def test_stages_fit_together():
    cfg = get_wsis_cfg()
    for name in NAMES:
        stage = get_stage(name)
        for key in stage.config_keys:
            node = cfg
            for part in key.split("."):
                node = node[part]
        if stage.kind in ("train", "infer"):
            assert stage.mapper in MAPPER_REGISTRY
        if stage.kind == "infer":
            assert stage.weights_from in stage.consumes
    assert get_stage("supervised_mask_rcnn").consumes == ()


def test_cam_artifact():
    output = {
        "logits": torch.zeros(3),
        "keys": torch.tensor([1]),
        "cam": torch.rand(1, 2, 3),
        "high_res": torch.rand(1, 8, 12),
    }
    kept = cam_artifact(output)
    assert {k: v.dtype for k, v in kept.items()} == {
        "keys": np.int64,
        "cam": np.float32,
        "high_res": np.float16,
    }
