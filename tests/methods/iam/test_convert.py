import pytest
import torch
from wsis.errors import DataError
from wsis.methods.iam.convert import convert_filling, filling_name
from wsis.methods.iam.filling_network import FillingNetwork

NAMES = {
    "encode.encode1.0.weight": "encoder.0.conv.weight",
    "encode.encode2.1.running_var": "encoder.1.norm.running_var",
    "decode.decode3.1.num_batches_tracked": "decoder.2.norm.num_batches_tracked",
    "feature_pyramid.toplayer.bias": "pyramid.top.bias",
    "feature_pyramid.latlayer3.0.bias": "pyramid.lateral3.conv.bias",
    "feature_pyramid.latlayer2.1.weight": "pyramid.lateral2.norm.weight",
    "feature_pyramid.smooth2.0.weight": "pyramid.smooth2.conv.weight",
}


def test_names():
    for theirs, ours in NAMES.items():
        assert filling_name(theirs) == ours
    assert filling_name("feature_pyramid.smooth9.0.weight") is None
    own = FillingNetwork((256, 512, 1024)).state_dict()
    assert set(NAMES.values()) <= set(own)
    assert len(own) == 65


def test_a_stranger_is_refused():
    weight = torch.zeros(1)
    with pytest.raises(DataError, match=r"model_filling_latest.* no entry conv1\.weight"):
        convert_filling({"encode.encode1.0.bias": weight, "conv1.weight": weight})
