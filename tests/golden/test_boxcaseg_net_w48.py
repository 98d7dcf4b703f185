"""boxcaseg_net_w48: the published network."""

import pytest
import torch

from tests.golden.boxcaseg_models import boxcaseg_cfg, build_boxcaseg, golden_state, heads_of
from tests.golden.conftest import assert_close


@pytest.fixture(scope="module")
def case(golden):
    arrays = golden.load("boxcaseg_net_w48")
    cfg = boxcaseg_cfg()
    cfg.MODEL.BOXCASEG.OWN_SHARE = float(arrays["fcn_ratio"])
    return arrays, build_boxcaseg(cfg, golden_state(golden, arrays))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs(case, mode):
    arrays, model = case
    state = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.train(mode == "train")
    count = len(arrays[f"{mode}_weak"])
    with torch.no_grad():
        images = torch.from_numpy(arrays["x"][:count])
        weak, full = heads_of(model, images, torch.ones(count, dtype=torch.bool))
    assert_close(weak, arrays[f"{mode}_weak"], 5e-4, "weak")
    assert_close(full, arrays[f"{mode}_full"], 5e-4, "full")
    model.load_state_dict(state, strict=False)
