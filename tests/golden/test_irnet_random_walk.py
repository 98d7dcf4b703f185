"""irnet_random_walk: affinities and walks of several betas, step counts and radii."""

import re

import torch
from torch.nn import functional
from wsis.methods.irnet.affinity import path_maxima
from wsis.methods.irnet.random_walk import random_walk

from tests.golden.conftest import assert_close


def test_affinity(arrays):
    for name, expected in arrays.items():
        if match := re.fullmatch(r"affinity_r(\d+)", name):
            radius = int(match[1])
            edge = torch.from_numpy(arrays["edge"])
            padded = functional.pad(edge, (radius, radius, 0, radius), value=1.0)
            maxima, _ = path_maxima(padded, radius=radius)
            assert_close(1 - maxima.flatten(1), expected, 1e-6, name)


def test_walks(arrays):
    edge = torch.from_numpy(arrays["edge"][0])
    names = [name for name in arrays if name.startswith("rw_")]
    assert names
    for name in names:
        expected = arrays[name]
        match = re.fullmatch(r"rw_(cxi_)?b(\d+(?:[p.]\d+)?)_t(\d+)(?:_r(\d+))?", name)
        assert match, f"what is {name}?"
        maps = torch.from_numpy(arrays["x_cxi" if match[1] else "x"])
        out = random_walk(
            maps.reshape(-1, *edge.shape),
            edge,
            radius=int(match[4] or 5),
            beta=float(match[2].replace("p", ".")),
            exp_times=int(match[3]),
        )
        assert_close(out, expected[:, 0], 5e-5, name)
        own = arrays.get(f"own_{name}_64")
        if own is not None:
            assert_close(out, own[:, 0], 1e-5, f"own_{name}_64")
