"""Pickles of the original codes and of Detectron2, read by an unpickler that knows a dozen names.

Pickles run code when loaded. Here every name beyond arrays, tensors and plain containers is
refused. Allowed names get stand-ins, since a pickle may also set the state of its objects: NumPy
trusts such a state and would follow pointers in it. Torch storages are loaded with
``weights_only``. Every array is checked against the data that is really there before memory is
reserved.
"""

from __future__ import annotations

import codecs
import collections
import io
import math
import os
import pickle
import pickletools
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch

from wsis.errors import DataError
from wsis.reading import open_file

MAX_FILE_BYTES = 4 << 30
_KINDS = "biufSU"  # of arrays: numbers and text, nothing with pointers
_UNUSED_NUMBERS = 1 << 16  # of the memo
_TEXT_FLAG = 8  # NumPy's "needs initialisation"; other flags would make it follow pointers


class _Array(np.ndarray):
    """An array whose state is looked at before NumPy takes it.

    ``numpy.save`` wraps a dictionary into an array of objects without dimensions: it is kept as
    ``content``, outside the array.
    """

    content: Any = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if isinstance(dtype, _Type) and dtype.dtype is None and isinstance(data, list):
            if version != 1 or shape != ():
                raise ValueError("the pickle has an unusual array")
            (self.content,) = data
            return
        if version != 1 or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("the pickle has an unusual array")
        real, data = _real(dtype), _bytes(data)
        if math.prod(shape) * real.itemsize != len(data):
            raise ValueError("the pickle has an array of another size than its data")
        super().__setstate__((1, tuple(shape), real, bool(fortran), data))


class _Type:
    """A NumPy data type: its name, and the byte order that the pickle states afterwards.

    ``dtype`` is None for the type of objects, whose content is not used (see `_Array.content`).
    """

    __slots__ = ("dtype",)

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = None
        if name in ("O8", "O"):
            return
        if not isinstance(name, str) or len(name) > 6:
            raise ValueError("the pickle has an unusual data type")
        self.dtype = np.dtype(name)
        if self.dtype.kind not in _KINDS or self.dtype.itemsize == 0:
            raise ValueError(f"the pickle has the data type {name}")

    def __setstate__(self, state: Any) -> None:
        if self.dtype is None:
            return
        plain = state[2:5] == (None, None, None) and set(state[7:]) <= {0, _TEXT_FLAG}
        if len(state) < 5 or state[1] not in tuple("<>|=") or not plain:
            raise ValueError("the pickle has an unusual data type")
        self.dtype = self.dtype.newbyteorder(state[1])


def _real(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Type) or dtype.dtype is None:
        raise ValueError("the pickle has an unusual data type")
    return dtype.dtype


def _bytes(data: Any) -> bytes:
    """The bytes of an array or a number; Python 2 wrote them as text, a character for each."""
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(data, bytes):
        raise ValueError("the pickle has unusual data")
    return data


class _Storage:
    """The numbers of a torch storage."""

    __slots__ = ("numbers",)

    def __init__(self, data: Any) -> None:
        if not isinstance(data, bytes):
            raise ValueError("a torch storage is not made of bytes")
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(loaded, torch.storage.TypedStorage):
            raise ValueError("a torch tensor has no storage")
        self.numbers = torch.empty(0, dtype=loaded.dtype).set_(loaded.untyped())

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle sets the state of a torch storage")


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """NumPy's helper makes an empty array that the pickle then fills; nothing else is allowed."""
    if kind is not _NDARRAY or tuple(shape) != (0,):
        raise ValueError("the pickle makes an array in an unusual way")
    return np.empty(0, dtype=np.int8).view(_Array)


def _scalar(dtype: Any, data: Any) -> Any:
    """A NumPy number."""
    if _real(dtype).kind not in "biuf":
        raise ValueError("the pickle has an unusual number")
    return np.frombuffer(_bytes(data), dtype=_real(dtype), count=1)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array of protocol 5, a view of the data in the pickle."""
    if order not in ("C", "F"):
        raise ValueError("the pickle has an unusual array")
    return np.frombuffer(data, dtype=_real(dtype)).reshape(shape, order=order).view(_Array)


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("the pickle has unusual bytes")
    return codecs.encode(text, "latin1")


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """The array of a tensor, if all its elements lie in the storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a torch tensor has no storage")
    try:
        found = torch.as_strided(storage.numbers, size, stride, offset)
    except (RuntimeError, TypeError, OverflowError):
        raise ValueError("a torch tensor has no shape or lies outside its storage") from None
    if found.numel() > len(storage.numbers):
        raise ValueError("a torch tensor is larger than its storage")
    return found.numpy().copy().view(_Array)


class _Name:
    """A name in a pickle: it can be called and nothing else; its state cannot be set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any] | None = None) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        if self._make is None:
            raise ValueError("the pickle makes an array in an unusual way")
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle changes what a name means")


_NDARRAY = _Name()  # the class itself would make arrays of any size
_OF_NUMPY = {
    ("multiarray", "_reconstruct"): _Name(_reconstruct),
    ("multiarray", "scalar"): _Name(_scalar),
    ("numeric", "_frombuffer"): _Name(_frombuffer),
}
_ALLOWED: Mapping[tuple[str, str], _Name] = {
    **{(f"numpy._core.{module}", name): made for (module, name), made in _OF_NUMPY.items()},
    **{(f"numpy.core.{module}", name): made for (module, name), made in _OF_NUMPY.items()},
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_Type),
    ("__builtin__", "bytes"): _Name(lambda: b""),  # empty bytes in protocol 2
    ("_codecs", "encode"): _Name(_encode),
    ("torch._utils", "_rebuild_tensor_v2"): _Name(_rebuild_tensor),
    ("torch.storage", "_load_from_bytes"): _Name(_Storage),
    ("collections", "OrderedDict"): _Name(collections.OrderedDict),
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED`, torch's only with ``tensors``, and refuses every other."""

    tensors = True

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for an allowed name."""
        found = _ALLOWED.get((module, name))
        if found is None or (module.startswith("torch") and not self.tensors):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """No file of the originals refers to anything outside itself."""
        raise pickle.UnpicklingError("it refers to something outside the file")


def _check_memo(stream: IO[bytes]) -> None:
    """Refuse a pickle that notes an object under a number far beyond those that it has used.

    Python would fill memory for all the numbers below.
    """
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if "PUT" in opcode.name and argument > count + _UNUSED_NUMBERS:
            raise ValueError("the pickle has an absurd reference")
    stream.seek(start)


def load_pickle(stream: IO[bytes], *, tensors: bool = True) -> Any:
    """What a pickle holds: arrays, numbers, text and containers of them; tensors come as arrays.

    Args:
        stream: open for reading bytes.
        tensors: whether to know torch's names at all.

    Raises:
        Exception: nearly any, where the pickle is damaged or asks for anything else.
    """
    _check_memo(stream)
    unpickler = _Unpickler(stream, encoding="latin1")  # text of Python 2
    unpickler.tensors = tensors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TypedStorage is deprecated, but it was saved
        found = unpickler.load()
    return found.content if isinstance(found, _Array) and found.content is not None else found


def read_pickle(
    path: str | os.PathLike[str], what: str, load: Callable[[IO[bytes]], Any] = load_pickle
) -> Any:
    """What a file of the original codes holds; no code in it is run.

    ``load`` reads the open file, all of it at once, and may raise anything; ``what`` says in the
    message what the file should be ("label file of CIM").

    Raises:
        DataError: no file, one of more than `MAX_FILE_BYTES`, or ``load`` raised.
    """
    try:
        with open_file(path, limit=MAX_FILE_BYTES) as stream:
            return load(stream)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except Exception as error:  # unpickling a damaged file raises nearly anything
        raise DataError(f"{path} is no {what} ({type(error).__name__}: {error})") from error
