"""Checkpoints: one .npz file with a configuration, the parameters, and other arrays and values."""

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
from npgpt2 import validate
from npgpt2.config import GPT2Config
from npgpt2.disk.files import write_atomically

_FORMAT = "npgpt2-1"
_MODEL = "model/"  # prefix of the parameters' names, to separate them from other arrays


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file, as `load_npz` returns it.

    Attributes
    ----------
    path
        The file.
    config
        The configuration of the model.
    parameters
        The arrays of the model's parameters, by name.
    arrays
        The other arrays, by name.
    meta
        The other values (JSON values), by name.
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
    """Write a configuration, parameters, and any other arrays and values to one file.

    Parameters
    ----------
    path
        File to write or to replace. After a crash, the file is completely old or completely new.
    config
        The configuration of the model.
    parameters
        The arrays of the model's parameters, by name.
    arrays
        Other arrays, by name. The names must not begin with "model/".
    meta
        Other values that JSON can hold, by name. The names "format" and "config" are reserved.

    Raises
    ------
    OSError
        The file cannot be written.
    TypeError, ValueError
        JSON cannot hold one of the values, or an array holds Python objects. The old file has not
        changed.
    """
    header = {"format": _FORMAT, "config": asdict(config), **(meta or {})}
    content = {_MODEL + name: array for name, array in parameters.items()}
    content |= {"header": np.array(json.dumps(header)), **(arrays or {})}
    write_atomically(path, lambda file: _write_npz(file, content))


def _write_npz(file: IO[bytes], content: Mapping[str, Array]) -> None:
    """Write a file for `np.load`. (`np.savez` would pickle objects, and reserves some names.)"""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a file that `save_npz` has written.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        The file is not a checkpoint of npgpt2, or is damaged.
    """
    path = validate.path("path", path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: np.asarray(content[name]) for name in content.files}
        meta = json.loads(str(arrays.pop("header")))
        if meta["format"] != _FORMAT:
            raise ValueError(f"format {meta['format']!r} instead of {_FORMAT!r}")
        config = GPT2Config(**meta["config"])
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and json raise errors of many types
        raise ValueError(
            f"{path} is damaged or not a checkpoint of npgpt2 ({type(error).__name__}: {error})"
        ) from error
    names = [name for name in arrays if name.startswith(_MODEL)]
    parameters = {name.removeprefix(_MODEL): arrays.pop(name) for name in names}
    others = {name: value for name, value in meta.items() if name not in ("format", "config")}
    return Checkpoint(path, config, parameters, arrays, others)
