"""Pickles of the original codes, read by an unpickler that knows a dozen names.

Pickles run code when loaded. Here every name beyond arrays, tensors and plain containers is
refused, the dangerous ones are replaced (torch storages are loaded with ``weights_only``), and
every array is checked against the data that is really there before memory is asked for.
"""

from __future__ import annotations

import codecs
import collections
import io
import math
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch

MAX_FILE_BYTES = 4 << 30


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """NumPy's helper makes an empty array that the pickle then fills; nothing else is allowed."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise ValueError("the pickle makes an array in an unusual way")
    return np.empty(0, dtype=np.int8)


def _dtype(name: Any, *options: Any) -> np.dtype:
    if not isinstance(name, str) or len(name) > 4:
        raise ValueError("the pickle has an unusual data type")
    return np.dtype(name, *options)


def _scalar(dtype: Any, data: Any) -> Any:
    """A NumPy number."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or not isinstance(data, bytes):
        raise ValueError("the pickle has an unusual number")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array of protocol 5, a view of the data in the pickle."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or order not in ("C", "F"):
        raise ValueError("the pickle has an unusual array")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("the pickle has unusual bytes")
    return codecs.encode(text, "latin1")


def _load_storage(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise ValueError("a torch storage is not made of bytes")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A tensor on a storage, if all its elements lie in the storage."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError("a torch tensor has no storage")
    numbers_ok = all(type(v) is int and v >= 0 for v in (offset, *size, *stride))
    if not numbers_ok or len(size) != len(stride):
        raise ValueError("a torch tensor has an unusual shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a torch tensor is larger than its storage")
    if count == 0:
        return torch.empty(tuple(size), dtype=storage.dtype)
    return torch.empty(0, dtype=storage.dtype).set_(
        storage.untyped(), offset, tuple(size), tuple(stride)
    )


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for an allowed name."""
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused") from None

    def persistent_load(self, pid: Any) -> Any:
        """No file of the originals refers to anything outside itself."""
        raise pickle.UnpicklingError("it refers to something outside the file")


def check_file_size(stream: IO[bytes]) -> None:
    """Refuse files that are larger than any that the originals write.

    Raises:
        ValueError: more than `MAX_FILE_BYTES`.
    """
    if os.fstat(stream.fileno()).st_size > MAX_FILE_BYTES:
        raise ValueError("it is absurdly large")


def load_pickle(stream: IO[bytes]) -> Any:
    """What a pickle holds: arrays, tensors, numbers, text and containers of them.

    Raises:
        Exception: nearly any, where the pickle is damaged or asks for anything else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TypedStorage is deprecated, but it was saved
        return _Unpickler(stream).load()
