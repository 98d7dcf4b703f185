"""The restricted unpickler: what it reads, and what it refuses."""

import io
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from wsis.pickles import load_pickle

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.array([[True, False]]),
    np.array(["ab", "c"]),
    np.zeros((0, 5), dtype=np.uint8),
    np.array(7, dtype=np.int64),
]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: str(a.dtype))
def test_arrays_of_every_protocol(array, protocol):
    back = load_pickle(io.BytesIO(pickle.dumps([array, array.T], protocol)))[0]
    assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)


def test_tensors_numbers_and_containers():
    grid = torch.arange(24.0).reshape(4, 6)
    content = {"t": grid[1:, ::2], "none": torch.zeros(0, 3), "n": np.float64(0.5), "l": [(1, "a")]}
    back = load_pickle(io.BytesIO(pickle.dumps(content)))
    np.testing.assert_array_equal(back["t"], grid[1:, ::2].numpy())
    assert back["none"].shape == (0, 3)
    assert (back["n"], back["l"]) == (0.5, [(1, "a")])


def test_a_saved_dictionary(tmp_path):
    with open(tmp_path / "a.npy", "wb") as stream:
        np.save(stream, {"x": np.ones(3)}, allow_pickle=True)
    with open(tmp_path / "a.npy", "rb") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        back = load_pickle(stream)
    np.testing.assert_array_equal(back["x"], np.ones(3))


class Made:
    """Pickles as any call with any state."""

    def __init__(self, call, arguments, state=None):
        self.parts = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np._core.multiarray._reconstruct
EMPTY = (np.ndarray, (0,), b"b")
POINTERS = struct.pack("<2Q", 1, 1)


def numbers(name, shape, data, *, order="<"):
    kind = Made(np.dtype, (name, False, True), (3, order, None, None, None, -1, -1, 0))
    return Made(RECONSTRUCT, EMPTY, (1, shape, kind, False, data))


HOSTILE = {
    "objects from raw bytes": Made(
        RECONSTRUCT,
        EMPTY,
        (
            *(1, (2,)),
            Made(np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 8, 0)),
            *(False, POINTERS),
        ),
    ),
    "numbers that say they are objects": Made(
        RECONSTRUCT,
        EMPTY,
        (
            *(1, (2,)),
            Made(np.dtype, ("f8", False, True), (3, "<", None, None, None, -1, -1, 63)),
            *(False, POINTERS),
        ),
    ),
    "void with fields": numbers("V8", (2,), POINTERS, order="|"),
    "a few bytes for gigabytes": Made(np.ndarray, ((1 << 31,),)),
    "a shape beyond its data": numbers("f8", (1 << 40,), b"12345678"),
    "a negative side": numbers("f8", (-1, -1), b"12345678"),
    "a type of no size": numbers("S0", (1 << 40,), b"", order="|"),
    "code": Made(print, ("x",)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name):
    data = pickle.dumps(HOSTILE[name], 2)
    with pytest.raises(Exception, match=r"unusual|refused|another size|data type"):
        load_pickle(io.BytesIO(data))


@pytest.mark.parametrize("size", [(2.0,), (True,), "ab", (2**63,), (9,), (-1,), None, 3])
def test_tensors_of_odd_shapes(size):
    rebuild, (storage, *_) = torch.ones(3).__reduce_ex__(2)
    data = pickle.dumps(Made(rebuild, (storage, 0, size, (1,), False, OrderedDict())), 2)
    with pytest.raises(ValueError, match="a torch tensor has no shape or lies outside"):
        load_pickle(io.BytesIO(data))


def test_no_state_for_names():
    data = b"\x80\x02cnumpy\ndtype\n}X\x05\x00\x00\x00_makeK\x01sb."  # BUILD on the name itself
    with pytest.raises(ValueError, match="changes what a name means"):
        load_pickle(io.BytesIO(data))


def python2(value):
    """A pickle as Python 2 wrote it: protocol 2, bytes as text, NumPy under its old name."""
    pickler = pickle._Pickler(stream := io.BytesIO(), 2)
    pickler.dispatch = pickle._Pickler.dispatch | {
        bytes: lambda self, data: self.write(b"T" + struct.pack("<i", len(data)) + data)
    }
    pickler.dump(value)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def test_arrays_and_numbers_of_python_2():
    content = {"w": np.array([[-1.5, 3e38]], np.float32), "n": np.float64(0.1)}
    back = load_pickle(io.BytesIO(python2(content)), tensors=False)
    np.testing.assert_array_equal(back["w"], content["w"])
    assert back["n"] == 0.1


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"p99999999\n"])
def test_references_that_would_take_memory(put):
    """Python would fill a table up to the number."""
    with pytest.raises(ValueError, match="absurd reference"):
        load_pickle(io.BytesIO(b"\x80\x02]" + put + b"."))


def test_tensors_only_where_they_are_wanted():
    data = pickle.dumps(torch.ones(2))
    assert load_pickle(io.BytesIO(data)).tolist() == [1, 1]
    with pytest.raises(pickle.UnpicklingError, match="torch.*refused"):
        load_pickle(io.BytesIO(data), tensors=False)
