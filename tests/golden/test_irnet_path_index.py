"""irnet_path_index: search paths, index tables and pair labels, exactly."""

import numpy as np
import torch
from plain.irnet import path_index
from wsis.methods.irnet import affinity
from wsis.methods.irnet.meta_arch import reduce_labels


def cases(arrays):
    return sorted(name.removesuffix("_radius") for name in arrays if name.endswith("_radius"))


def test_paths(arrays):
    for case in cases(arrays):
        paths = affinity.search_paths(int(arrays[f"{case}_radius"]))
        lengths, counts = np.unique([len(path) for path in paths], return_counts=True)
        np.testing.assert_array_equal(lengths, arrays[f"{case}_lengths"])
        np.testing.assert_array_equal(counts, arrays[f"{case}_counts"])
        np.testing.assert_array_equal(np.concatenate(paths), arrays[f"{case}_paths"])
        ends = affinity.pair_offsets(int(arrays[f"{case}_radius"]))
        np.testing.assert_array_equal(ends, arrays[f"{case}_search_dst"])


def test_index_tables(arrays):
    """The original's tables, made of our paths: flat indices of each path from each source."""
    for case in cases(arrays):
        radius = int(arrays[f"{case}_radius"])
        height, width = (int(side) for side in arrays[f"{case}_size"])
        sources, partners, tables = path_index((height, width), radius=radius)
        np.testing.assert_array_equal(sources, arrays[f"{case}_src"])
        np.testing.assert_array_equal(partners, arrays[f"{case}_dst"])
        np.testing.assert_array_equal(tables[0], arrays[f"{case}_idx0"])
        np.testing.assert_array_equal(tables[-1], arrays[f"{case}_idxlast"])
        sums = [int((table.ravel() * (np.arange(table.size) % 997 + 1)).sum()) for table in tables]
        assert sums == arrays[f"{case}_checksum"].tolist()


def test_label_reduction(arrays):
    height, width = arrays["label_reduced"].shape
    full = torch.from_numpy(arrays["label_full"])[None]
    np.testing.assert_array_equal(reduce_labels(full, (height, width))[0], arrays["label_reduced"])


def test_pair_labels(arrays):
    labels = torch.from_numpy(arrays["label_reduced"])[None]
    kinds = affinity.pair_labels(labels, radius=int(arrays["a_radius"])).flatten(1).numpy()
    shape = tuple(int(side) for side in arrays["label_shape"])
    for name, kind in (
        ("bg_pos", affinity.PAIR_BACKGROUND),
        ("fg_pos", affinity.PAIR_FOREGROUND),
        ("neg", affinity.PAIR_DIFFERENT),
    ):
        expected = np.unpackbits(arrays[name])[: shape[0] * shape[1]].reshape(shape).astype(bool)
        np.testing.assert_array_equal(kinds == kind, expected, err_msg=name)
