"""Models on disk: one .npz file, written so that a crash leaves the old or the new one whole."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from npgpt2.config import GPT2Config
from npgpt2.model import GPT2Model
from npgpt2.parameter_table import count_parameters

Array = NDArray[Any]

_FORMAT = "npgpt2-1"
_MODEL = "model/"  # in front of parameter names, so that other arrays can stand beside them


def save_npz(
    path: str | os.PathLike[str],
    model: GPT2Model,
    *,
    arrays: Mapping[str, Array] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write the model's configuration and parameters, and whatever else is given.

    Parameters
    ----------
    path
        File to write or to replace.
    model
        The model.
    arrays
        More arrays, by names that do not begin with "model/".
    meta
        More values, as JSON can hold them.

    Raises
    ------
    OSError
        The file cannot be written.
    TypeError, ValueError
        A value that JSON cannot hold, or an array of Python objects. The old file is as it was.
    """
    header = {"format": _FORMAT, "config": asdict(model.config), **(meta or {})}
    content = {_MODEL + name: p.data for name, p in model.named_parameters()}
    content |= {"header": np.array(json.dumps(header)), **(arrays or {})}
    write_atomically(path, lambda file: _write_npz(file, content))


def _write_npz(file: IO[bytes], content: Mapping[str, Array]) -> None:
    """Write what `np.load` reads; `np.savez` would pickle objects, and reserves some names."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: str | os.PathLike[str]) -> GPT2Model:
    """Read a model written by `save_npz`, in the dtype it was saved in, in eval mode.

    Raises
    ------
    OSError
        No such file, or not readable.
    ValueError
        Not a checkpoint of npgpt2, or damaged.
    """
    return model_from(*read_npz(path), path)


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return (meta, arrays) of a file written by `save_npz`; errors as for `load_npz`."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: np.asarray(content[name]) for name in content.files}
        meta = json.loads(str(arrays.pop("header")))
        if meta["format"] != _FORMAT:
            raise ValueError(f"format {meta['format']!r} instead of {_FORMAT!r}")
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and json each have several of their own
        raise ValueError(
            f"{os.fspath(path)} is damaged or not a checkpoint of npgpt2 "
            f"({type(error).__name__}: {error})"
        ) from error
    return meta, arrays


def model_from(
    meta: Mapping[str, Any], arrays: Mapping[str, Array], path: str | os.PathLike[str]
) -> GPT2Model:
    """Build the model that `read_npz` returned the parts of; path is for error messages."""
    state = {k.removeprefix(_MODEL): v for k, v in arrays.items() if k.startswith(_MODEL)}
    try:
        config = GPT2Config(**meta["config"])
        size, held = count_parameters(config), sum(array.size for array in state.values())
        if size > 2 * held:  # said before anything of that size is made
            raise ValueError(f"its configuration asks for {size:,} numbers, it holds {held:,}")
        model = GPT2Model(config, dtype=state["wte.weight"].dtype, init_weights=False).eval()
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} does not hold a whole model: {error}") from error
    return model


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Call write(file) on a temporary file beside path, then move it into place.

    Whatever happens in between, path holds either what it held before or all of the new. Where it
    is a symbolic link, the file that it leads to is replaced.
    """
    path = os.path.realpath(path)
    with written_beside(path, write) as temporary, errors_naming(path):
        os.replace(temporary, path)


@contextmanager
def written_beside(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]
) -> Iterator[Path]:
    """Call write(file) on a temporary file beside path; yield where it is, to be moved.

    If it is not moved it is deleted.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with errors_naming(path), open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def errors_naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name path in errors of the operating system, which names nothing when a write fails."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not one of those: it says what it has to say
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
