"""irnet_edge_displacement: boundary and displacement of one image, two padded sizes."""

import torch

from tests.golden.conftest import assert_close
from tests.golden.irnet_models import build_irnet, irnet_cfg


def test_both_paddings(golden, arrays):
    model = build_irnet(golden.weights(arrays)).eval()
    image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)
    default = irnet_cfg().MODEL.IRNET.INFERENCE_SIZE
    for case, side in (("default", default), ("small", int(arrays["small_crop"]))):
        model.canvas = {"fixed": side, "divisor": 16}
        ((boundary, displacement),) = model.boundary_and_displacement([image])
        assert_close(boundary[None], arrays[f"edge_{case}"], 2e-5, f"edge_{case}")
        assert_close(displacement, arrays[f"dp_{case}"], 2e-4, f"dp_{case}")
