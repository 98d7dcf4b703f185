"""HRNet-W48 as CIM's backbone (cim_hrnet_body.npz)."""

import numpy as np
import pytest
import torch
from wsis.methods.cim.convert import convert_trunk
from wsis.modeling.backbones import TimmBackbone
from wsis.modeling.backbones.timm import create_body

from tests.golden import fill


@pytest.mark.slow
@torch.no_grad()
def test_feature(golden, arrays):
    state = fill.state_dict(golden.text(arrays["state_shapes"]), golden.prefix)
    for name in golden.text(arrays["multiplier_keys"]):
        state[name] *= float(arrays["multiplier"])
    with torch.device("meta"):
        body = create_body("hrnet_w48")
        trunk = TimmBackbone(body, {"final": "final"}, norm="RunningStatsBN")
    found = trunk.load_state_dict(convert_trunk(state, ""), strict=False, assign=True)
    assert not found.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    image = (torch.from_numpy(arrays["image"]).permute(2, 0, 1) / 255 - mean) / std
    for mode in (False, True):
        feature = trunk.train(mode)(image[None])["final"]
        np.testing.assert_allclose(feature, arrays["feat"], rtol=1e-3, atol=1e-2)
