"""The safetensors format: arrays in a file that is mapped into memory for reading.

A file has three parts: the length of the header, the header (JSON: name -> dtype, shape, place),
and the numbers of one tensor after the other. Reading maps the file: a page of numbers is loaded
when you use it, and copied when you change it.

Reading needs the package safetensors, which checks the file. Writing does not use the package,
because it needs all tensors in contiguous memory at once, so memory for a second model. The code
here makes one tensor after the other contiguous.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autograd import Array
from npgpt2.machine.work import blocks

DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}  # NumPy has no bfloat16
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class MappedTensor:
    """A tensor in a mapped file.

    Attributes
    ----------
    name
        Its name in the file.
    path
        The file.
    kind
        Its dtype, under the name of the format: "F32".
    shape
        Its shape.
    begin
        Place of its first number, in bytes from the start of the file.
    content
        The bytes of its numbers, mapped.
    """

    name: str
    path: Path
    kind: str
    shape: tuple[int, ...]
    begin: int
    content: NDArray[np.uint8]

    @property
    def mapped(self) -> Array:
        """The numbers in the order of the file, on one axis."""
        return self.content.view(DTYPES[self.kind])

    def array(self, dtype: np.dtype[Any]) -> Array:
        """Return the tensor in the given dtype.

        If the numbers in the file have this dtype and are aligned, the result is mapped. Otherwise
        they are read into memory without the map, so that the pages of the map take no memory.

        Raises
        ------
        ValueError
            A finite number is too large for the dtype.
        """
        numbers = self.mapped
        if numbers.dtype != dtype or not numbers.flags.aligned:
            stored = np.fromfile(self.path, numbers.dtype, len(numbers), offset=self.begin)
            try:
                with np.errstate(over="raise"):
                    numbers = _floats(stored, self.kind).astype(dtype, copy=False)
            except FloatingPointError:
                raise ValueError(
                    f"{self.path}: {self.name} has numbers that are too large for {dtype}; read "
                    "it with dtype=np.float64"
                ) from None
        return numbers.reshape(self.shape)

    def equals(self, other: MappedTensor) -> bool:
        """Whether both hold the same numbers. Comparing them block by block takes little memory."""
        return all(
            np.array_equal(
                _floats(self.mapped[n], self.kind), _floats(other.mapped[n], other.kind), True
            )
            for n in blocks(self.mapped)
        )


def _floats(numbers: Array, kind: str) -> Array:
    """Return the numbers of a file as floats."""
    if kind == "BF16":  # the upper half of a float32
        return np.left_shift(numbers, 16, dtype=np.uint32).view(np.float32)
    return numbers


def map_file(path: Path) -> list[MappedTensor]:
    """Map all tensors of a file.

    Raises
    ------
    ImportError
        The package safetensors is missing.
    ValueError
        The file is missing, damaged, or not a safetensors file.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs safetensors: pip install 'npgpt2[hf]' ({error})"
        ) from error
    try:
        with safe_open(path, framework="numpy"):
            pass  # it has checked that the tensors fill the file and have the size of their shape
        content = np.asarray(np.memmap(path, mode="c"))  # copy on write
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error)
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    reason = "it is only a pointer of Git LFS; git lfs pull downloads the file"
        raise ValueError(f"{path.name} is damaged, or not a safetensors file: {reason}") from error
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        tensors.append(MappedTensor(name, path, entry["dtype"], shape, begin, content[begin:end]))
    return tensors


def write_tensors(file: IO[bytes], tensors: Mapping[str, Array]) -> None:
    """Write float32 and float64 arrays to an open file, by name."""
    kinds = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers requires it
    end = 0
    for name, a in tensors.items():
        begin, end = end, end + a.nbytes
        header[name] = {"dtype": kinds[a.dtype], "shape": a.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that all numbers are aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for a in tensors.values():
        file.write(np.ascontiguousarray(a, DTYPES[kinds[a.dtype]]).data)
