"""From text to batches: read a text, split its tokens into two parts, cut windows out of them.

Letters: see `npgpt2/config.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autograd import Array
from npgpt2 import validate


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        The file is empty, or is not UTF-8. The message says where.
    """
    content = validate.path("path", path).read_bytes()
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")  # a byte-order mark is not text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}; "
            "convert it first, with iconv -f ITS_ENCODING -t UTF-8"
        ) from None
    if not text:
        raise ValueError(f"{path} is empty; give a file with text")
    return text


def python_reference() -> str:
    """Return the Python language reference that CPython contains, about 465,000 characters.

    `help("assert")` and similar calls print parts of it. It differs a little between versions of
    Python.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def split(tokens: Array, val_fraction: float, n_positions: int) -> tuple[Array, Array]:
    """Keep the last val_fraction of the tokens for validation; return (training, validation).

    Raises
    ------
    ValueError
        A part would be shorter than n_positions + 1, the length of one window with its targets.
    """
    val_fraction = validate.fraction("val_fraction", val_fraction)
    n_positions = validate.integer("n_positions", n_positions)
    cut = len(tokens) - int(len(tokens) * val_fraction)
    if min(cut, len(tokens) - cut) <= n_positions:
        raise ValueError(
            f"text of {len(tokens)} characters is too short: {cut} for training and "
            f"{len(tokens) - cut} for validation, but each part needs at least "
            f"n_positions + 1 = {n_positions + 1}; take a longer text, a smaller n_positions or "
            f"another val_fraction than {val_fraction:g}"
        )
    return tokens[:cut], tokens[cut:]


def windows(tokens: Array, starts: Array, n_positions: int) -> tuple[Array, Array]:
    """Return (inputs, targets): the windows that begin at `starts`, and at `starts` + 1.

    Both have shape (B, T) with T = n_positions. targets[b, t] is the token after inputs[b, :t + 1].

    Raises
    ------
    TypeError, ValueError, IndexError
        Tokens or starts are not integers, the text is too short for a window, or a start leaves no
        room for one.
    """
    tokens, n_starts = _with_windows(tokens, n_positions)
    starts = validate.ids("starts", starts, n_starts)
    if starts.ndim != 1:
        raise ValueError(f"starts must have shape (B,), not {starts.shape}")
    return _cut(tokens, starts, n_positions)


def random_batch(
    tokens: Array, batch_size: int, n_positions: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return batch_size windows from random places, as (inputs, targets); see `windows`."""
    batch_size = validate.integer("batch_size", batch_size)
    way_out = "make one with np.random.default_rng(seed)"
    rng = validate.instance("rng", rng, np.random.Generator, way_out)
    tokens, n_starts = _with_windows(tokens, n_positions)
    return _cut(tokens, rng.integers(n_starts, size=batch_size), n_positions)


def _with_windows(tokens: Array, n_positions: int) -> tuple[Array, int]:
    """Return the tokens, and the number of windows in them; ValueError if there is no window."""
    tokens = validate.integers("tokens", tokens)
    P = validate.integer("n_positions", n_positions)
    if tokens.ndim != 1 or len(tokens) <= P:
        raise ValueError(
            f"tokens of shape {tokens.shape} have no window of n_positions={P}: the shape must be "
            f"(n,) with n at least n_positions + 1 = {P + 1}; take a longer text or a smaller "
            "n_positions"
        )
    return tokens, len(tokens) - P


def _cut(tokens: Array, starts: Array, n_positions: int) -> tuple[Array, Array]:
    chunk = tokens[starts[:, None] + np.arange(n_positions + 1)]  # (B, T + 1)
    return chunk[:, :-1], chunk[:, 1:]
