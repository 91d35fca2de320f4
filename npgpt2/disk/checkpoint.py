"""Checkpoints: a configuration, parameters and whatever belongs to them, in one .npz file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from autograd import Array
from npgpt2.config import GPT2Config
from npgpt2.disk.files import write_atomically

_FORMAT = "npgpt2-1"
_MODEL = "model/"  # in front of parameter names, so that other arrays can stand beside them


@dataclass(frozen=True)
class Checkpoint:
    """What `load_npz` found in a file.

    Attributes
    ----------
    path
        The file.
    config
        The configuration of the model.
    parameters
        The arrays of its parameters, by name.
    arrays
        The other arrays, by name.
    meta
        The other values, as JSON holds them.
    """

    path: Path
    config: GPT2Config
    parameters: Mapping[str, Array]
    arrays: Mapping[str, Array]
    meta: Mapping[str, Any]


def save_npz(
    path: str | os.PathLike[str],
    config: GPT2Config,
    parameters: Mapping[str, Array],
    *,
    arrays: Mapping[str, Array] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a configuration and parameters, and whatever else is given.

    Parameters
    ----------
    path
        File to write or to replace. A crash leaves the old file or the new one, whole.
    config
        The configuration of the model.
    parameters
        The arrays of its parameters, by name.
    arrays
        More arrays, by names that do not begin with "model/".
    meta
        More values, as JSON can hold them. The names "format" and "config" are taken.

    Raises
    ------
    OSError
        The file cannot be written.
    TypeError, ValueError
        A value that JSON cannot hold, or an array of Python objects. The old file stays as it was.
    """
    header = {"format": _FORMAT, "config": asdict(config), **(meta or {})}
    content = {_MODEL + name: array for name, array in parameters.items()}
    content |= {"header": np.array(json.dumps(header)), **(arrays or {})}
    write_atomically(path, lambda file: _write_npz(file, content))


def _write_npz(file: IO[bytes], content: Mapping[str, Array]) -> None:
    """Write what `np.load` reads; `np.savez` would pickle objects, and reserves some names."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a file written by `save_npz`.

    Raises
    ------
    OSError
        No such file, or not readable.
    ValueError
        It is not a checkpoint of npgpt2, or it is damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: np.asarray(content[name]) for name in content.files}
        meta = json.loads(str(arrays.pop("header")))
        if meta["format"] != _FORMAT:
            raise ValueError(f"format {meta['format']!r} instead of {_FORMAT!r}")
        config = GPT2Config(**meta["config"])
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and json each have several of their own
        raise ValueError(
            f"{os.fspath(path)} is damaged or not a checkpoint of npgpt2 "
            f"({type(error).__name__}: {error})"
        ) from error
    names = [name for name in arrays if name.startswith(_MODEL)]
    parameters = {name.removeprefix(_MODEL): arrays.pop(name) for name in names}
    others = {name: value for name, value in meta.items() if name not in ("format", "config")}
    return Checkpoint(Path(path), config, parameters, arrays, others)
