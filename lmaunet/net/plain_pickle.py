"""What a checkpoint may hold beside tensors: harmless objects, each as a stand-in of ours.

torch's own unpickler calls only what a list allows. The entries here do not allow the real
classes of numpy and the standard library but stand-ins: a crafted state can then reach no code of
theirs. Numbers and arrays keep their values; everything else (paths, dates, options) is dropped.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[<>=|]?(?:[biufcSU]\d{1,6}|O8?|\?)")


class Inert:
    """Stands for an object that nothing here reads; keeps nothing of it."""

    def __new__(cls, *_: Any) -> Inert:  # noqa: D102
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class PlainDtype:
    """Stands for a ``numpy.dtype`` of numbers or text."""

    def __init__(self, code: Any = "f8", *_: Any) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"a numpy array of {str(code)[:40]!r}")
        self.objects = "O" in code
        self.dtype = np.dtype("u1" if self.objects else code)

    def __setstate__(self, state: Any) -> None:
        if len(state) > 1 and state[1] in ("<", ">") and not self.objects:
            self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray:
    """Stands for a ``numpy.ndarray``; ``values`` is None for an array of objects."""

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, raw = state
        if dtype.objects:
            return
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise pickle.UnpicklingError(f"a numpy array of shape {shape}")
        if math.prod(shape) * dtype.dtype.itemsize != len(raw):
            raise pickle.UnpicklingError(f"a numpy array of shape {shape} in {len(raw)} bytes")
        numbers = np.frombuffer(raw, dtype.dtype)
        self.values = numbers.reshape(shape[::-1]).T if by_columns else numbers.reshape(shape)


def plain_scalar(dtype: PlainDtype, raw: Any = b"") -> Any:
    """Return the number or text of a numpy scalar as Python has it."""
    if dtype.objects:
        return None
    return np.frombuffer(raw, dtype.dtype, count=1)[0].item()


def plain_array(*_: Any) -> PlainArray:
    """Return an empty array, whose state follows in the pickle."""
    return PlainArray()


_SCALAR_TYPES = (
    "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128", "str_", "bytes_",
)  # fmt: skip
_BUILTINS = (
    "list", "dict", "int", "float", "str", "tuple", "bool", "frozenset", "slice", "range", "xrange",
)  # fmt: skip
_INERT = (
    *(f"numpy.{name}" for name in _SCALAR_TYPES),
    *(f"numpy.dtypes.{name}" for name in ("Float64DType", "Float32DType", "Int64DType")),
    *(f"{module}.{name}" for module in ("__builtin__", "builtins") for name in _BUILTINS),
    *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath",
                                     "Path")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "decimal.Decimal",
    "_decimal.Decimal", "fractions.Fraction",
    "torch.torch_version.TorchVersion", "torch._C.Generator",
)  # fmt: skip
_DICTIONARIES = (
    "collections.defaultdict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)  # fmt: skip


class PlainDict:
    """Stands for a subclass of dict; what a pickle makes of it is a dictionary."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]  # noqa: D102
        return {}


class PlainList:
    """Stands for a ``collections.deque``; what a pickle makes of it is a list."""

    def __new__(cls, *_: Any) -> list[Any]:  # type: ignore[misc]  # noqa: D102
        return []


def no_bytes(*_: Any) -> bytes:
    """Return no bytes: older protocols write ``b""`` as a call."""
    return b""


ALLOWED: list[Any] = [
    *((Inert, name) for name in _INERT),
    *((PlainDict, name) for name in _DICTIONARIES),
    (PlainList, "collections.deque"),
    *((no_bytes, f"{module}.bytes") for module in ("__builtin__", "builtins")),
    (PlainDtype, "numpy.dtype"),
    (PlainArray, "numpy.ndarray"),
    *((plain_scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    *((plain_array, f"numpy.{core}.multiarray._reconstruct") for core in ("_core", "core")),
]
"""For ``torch.serialization.safe_globals``: a stand-in, and the name that it answers to."""
