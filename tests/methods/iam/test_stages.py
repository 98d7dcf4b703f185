import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from wsis.data.artifacts import read_artifact, write_artifact
from wsis.methods.iam.stages import filled_instances_artifact
from wsis.stage import get_stage

from tests.methods.iam.test_meta_arch import sample, tiny_iam_cfg


@pytest.mark.parametrize("labels", [(0, 2), ()])
def test_artifact(tmp_path, labels):
    torch.manual_seed(0)
    model = build_model(tiny_iam_cfg()).eval()
    model.roi_heads.mask_threshold = 1e-30  # an untrained network finds nothing else
    (output,) = model([sample(labels=labels)])
    write_artifact(tmp_path / "a.npz", filled_instances_artifact(output))
    found = read_artifact(tmp_path / "a.npz")
    instances = output["instances"]
    np.testing.assert_array_equal(found["masks"], instances.pred_masks)
    np.testing.assert_array_equal(found["classes"], instances.pred_classes)
    np.testing.assert_array_equal(found["instance_peaks"], instances.peak)
    assert found["activation"].shape == found["responses"].shape == output["activation"].shape
    assert len(found["peaks"]) == len(found["activation"])
    assert (len(found["classes"]) > 0) == bool(labels)


def test_what_the_stages_depend_on():
    training, inference = get_stage("filling_network"), get_stage("filled_instances")
    assert "MODEL.IAM.SAMPLER" in training.config_keys
    assert "MODEL.IAM.SAMPLER" not in inference.config_keys  # it changes no mask
    assert "MODEL.IAM.CRF" in inference.config_keys
    assert "MODEL.IAM.CRF" not in training.config_keys
