"""Names of the original's checkpoint."""

import pytest
import torch
from wsis.errors import DataError
from wsis.methods.irnet.convert import convert_irnet, irnet_name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("fc_edge1.0.weight", "boundary_branch.reduce.0.conv.weight"),
        ("fc_edge5.1.bias", "boundary_branch.reduce.4.norm.bias"),
        ("fc_edge6.bias", "boundary_branch.predict.bias"),
        ("fc_dp3.1.weight", "displacement_branch.reduce.2.norm.weight"),
        ("fc_dp6.0.weight", "displacement_branch.merge_deep.conv.weight"),
        ("fc_dp7.1.bias", "displacement_branch.merge.norm.bias"),
        ("fc_dp7.3.weight", "displacement_branch.predict.weight"),
        ("mean_shift.running_mean", "mean_shift"),
        ("fc_dp7.4.running_mean", None),
        ("edge_layers.0.0.weight", None),
        ("path_indices0", None),
        ("disp_target", None),
        ("backbone.0.0.weight", None),
    ],
)
def test_names(theirs, ours):
    assert irnet_name(theirs) == ours


def test_trunk_and_counters():
    state = {
        "resnet50.layer4.0.downsample.1.running_mean": torch.ones(2),
        "resnet50.bn1.num_batches_tracked": torch.tensor(3),
        "fc_edge1.0.weight": torch.zeros(1),
    }
    found = convert_irnet(state)
    assert found.keys() == {
        "backbone.res5.0.shortcut.norm.running_mean",
        "boundary_branch.reduce.0.conv.weight",
    }


def test_another_checkpoint_is_refused():
    with pytest.raises(DataError, match="not IRNet's weights"):
        convert_irnet({"classifier.weight": torch.zeros(1)})
