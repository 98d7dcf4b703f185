"""iam_filling: every step of the filling network, its modes, and one training step."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from wsis.methods.iam.convert import convert_filling, filling_name
from wsis.methods.iam.filling_network import FillingNetwork

from tests.golden import fill
from tests.golden.conftest import assert_close

CHANNELS = (256, 512, 1024)


class Case:
    """The inputs of the file and its networks."""

    def __init__(self, golden):
        self.golden, self.arrays = golden, golden.load("iam_filling")
        self.settings = golden.text(self.arrays["settings"])
        self.index = torch.from_numpy(self.arrays["peaks"][:, 0]).long()
        self.responses = torch.from_numpy(self.arrays["prm"])
        # The maps belong to the images in the order in which the peaks name them.
        order = list(dict.fromkeys(self.index.tolist()))
        self.row = torch.tensor([order.index(image) for image in self.index.tolist()])
        height, width = self.responses.shape[1:]
        self.features = []
        for level, channels in zip((2, 3, 4), CHANNELS, strict=True):
            shape = (len(order), channels, height >> level, width >> level)
            noise = fill.rng(f"iam.p{level}", golden.prefix).standard_normal(shape)
            self.features.append(torch.from_numpy(np.maximum(0, noise).astype(np.float32)))

    def network(self, setting, weights, **options):
        state = fill.state_dict(
            self.golden.text(self.arrays[f"{weights}_shapes"]), self.golden.prefix
        )
        options = {"num_iterations": setting["it"]} | options
        model = FillingNetwork(
            CHANNELS, channels=setting["ch"], kernel_size=setting["k"], **options
        )
        model.load_state_dict(convert_filling(state))
        return model.eval()

    def evaluated(self):
        return [s for s in self.settings if s["mode"] == "eval"]


@pytest.fixture(scope="module")
def case(golden):
    return Case(golden)


@torch.no_grad()
def test_every_step(case):
    from wsis.methods.iam.filling import fill as iterate

    for setting in case.evaluated():
        name, arrays = setting["name"], case.arrays
        model = case.network(setting, name, statistics="batch")
        expected = arrays[f"{name}_encode"]
        assert_close(
            model.encode(case.responses), expected, 1e-5 * np.abs(expected).max(), "encoder"
        )
        pyramid = model.pyramid(case.features)[0, :, ::2, ::2]
        expected = arrays[f"{name}_pyramid0"]
        assert_close(pyramid, expected, 1e-5 * np.abs(expected).max(), "pyramid")
        weights = model.weights_of(case.features)
        for key, steps in [(f"{name}_filled", setting["it"])] + [
            (key, int(key.split("_it")[1].split("_")[0]))
            for key in arrays
            if key.startswith(f"{name}_it")
        ]:
            expected = arrays[key]
            encoded = model.encode(case.responses)[: len(expected)]
            filled = iterate(encoded, weights, case.row[: len(expected)], num_iterations=steps)
            assert_close(filled, expected, 1e-5 * np.abs(expected).max(), key)
        out = model(case.responses, case.row, case.features).sigmoid()
        assert_close(out, arrays[f"{name}_out"], 1e-4, f"{name}_out")


@torch.no_grad()
def test_what_batch_norm_sees(case):
    for setting in case.evaluated():
        name, arrays = setting["name"], case.arrays
        if f"{name}_out_runningstats" not in arrays:
            continue
        model = case.network(setting, name, statistics="batch")
        first = case.row == 0
        for key, chosen in (("first", first), ("single", torch.arange(len(first)) == 0)):
            out = model(case.responses[chosen], case.row[chosen], case.features).sigmoid()
            assert_close(out, arrays[f"{name}_out_{key}"], 1e-4, key)
        model.set_statistics("running")
        out = model(case.responses, case.row, case.features).sigmoid()
        assert_close(out, arrays[f"{name}_out_runningstats"], 1e-4, "running statistics")


def test_training_step(case):
    setting = next(s for s in case.settings if s["mode"] == "train")
    arrays = case.arrays
    model = case.network(setting, "train").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    target = np.unpackbits(arrays["train_target"])[: case.responses.numel()]
    target = torch.from_numpy(target.reshape(case.responses.shape)).float()
    logits = model(case.responses, case.row, case.features)
    loss = functional.binary_cross_entropy_with_logits(logits, target)
    loss.backward()
    assert_close(logits.detach().sigmoid(), arrays["train_out"], 1e-4, "train_out")
    assert_close(loss.item(), arrays["train_loss"], 1e-5, "loss")
    ours = dict(model.named_parameters())
    names = case.golden.text(arrays["train_grad_names"])
    for name, expected in zip(names, arrays["train_grad_norms"], strict=True):
        if not filling_name(name).endswith("conv.bias"):  # a norm follows: rounding only
            norm = ours[filling_name(name)].grad.norm().item()
            assert_close(norm, expected, 1e-3 * expected, f"gradient norm of {name}")
    buffers = dict(model.named_buffers())
    for key, expected in arrays.items():
        if key.startswith("train_grad__"):
            found = ours[filling_name(key.removeprefix("train_grad__"))].grad
            assert_close(found, expected, 1e-3 * np.abs(expected).max(), key)
        elif key.startswith("train_buf__"):
            found = buffers[filling_name(key.removeprefix("train_buf__"))]
            assert_close(found, expected, 1e-5 * max(1, np.abs(expected).max()), key)
    moved = "decode.decode3.0.weight"
    clear = np.abs(arrays[f"train_grad__{moved}"]) > 1e-5
    optimizer.step()
    step = ours[filling_name(moved)].detach().numpy()
    assert clear.any()
    assert_close(step[clear], arrays["train_step_decode3"][clear], 1e-5, "after Adam")
