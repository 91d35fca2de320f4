"""Atomic writes: a reader finds either the whole old content of a file or the whole new content."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from npgpt2 import validate


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Call write(file) on a temporary file beside `path`, then move it into place.

    Even after a crash, `path` holds its whole old content or the whole new content. If `path` is a
    symbolic link, the file that the link points to is replaced.

    Raises
    ------
    OSError
        The file cannot be written. The error names `path`.
    """
    path = os.path.realpath(validate.path("path", path))
    with written_beside(path, write) as temporary, errors_naming(path):
        os.replace(temporary, path)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace the content of a file; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(content))


@contextmanager
def written_beside(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]
) -> Iterator[Path]:
    """Call write(file) on a temporary file beside `path`; yield the path of the temporary file.

    At the end of the `with` block, the temporary file is deleted, unless you have moved it.
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
    """Name `path` in errors of the operating system, because a failed write names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not from the operating system: its message is complete
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


# -- JSON ----------------------------------------------------------------------------------------


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Replace the content of a file by a value, as JSON; see `write_atomically`."""
    write_bytes(path, to_json(value))


def to_json(value: object) -> bytes:
    """Return a value as JSON text, in UTF-8, with a newline at the end."""
    return (json.dumps(value, indent=1) + "\n").encode()


def read_json(path: str | os.PathLike[str], kind: type = dict, name: str | None = None) -> Any:
    """Read a JSON file whose outermost value has the given type, dict or list.

    Errors call the file `name`, or by its path.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        The file is not JSON, or its outermost value has another type.
    """
    name, content = name or os.fspath(path), Path(path).read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{name} is damaged: it holds a {type(value).__name__}")
    return value


# -- commands ------------------------------------------------------------------------------------


def as_argument(path: str | os.PathLike[str]) -> str:
    r"""Return a path as you can type it in a command, in one line.

    A control character, or a byte that is not UTF-8, is written in the way of bash and zsh.

    >>> print(as_argument("my text.txt"), as_argument("-x"), as_argument("two\nlines"))
    'my text.txt' ./-x $'two\x0alines'
    """
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text  # not an option
    if text.isprintable():
        return shlex.quote(text)
    characters = (
        c if c.isprintable() and c not in "\\'" else "".join(f"\\x{b:02x}" for b in os.fsencode(c))
        for c in text
    )
    return f"$'{''.join(characters)}'"
