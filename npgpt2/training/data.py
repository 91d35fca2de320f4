"""From text to batches: read a text, split its tokens into two parts, cut windows out of them.

Letters: see `npgpt2/config.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autograd import Array


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file.

    Raises
    ------
    OSError
        The file does not exist, or cannot be read.
    ValueError
        The file is empty, or is not UTF-8. The message says where.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")  # a byte-order mark is not text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}; "
            "convert it first, with iconv -f ITS_ENCODING -t UTF-8"
        ) from None
    if not text:
        raise ValueError(f"{path} is empty")
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
    """
    chunk = tokens[starts[:, None] + np.arange(n_positions + 1)]  # (B, T + 1)
    return chunk[:, :-1], chunk[:, 1:]


def random_batch(
    tokens: Array, batch_size: int, n_positions: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return batch_size windows from random places, as (inputs, targets)."""
    starts = rng.integers(len(tokens) - n_positions, size=batch_size)
    return windows(tokens, starts, n_positions)
