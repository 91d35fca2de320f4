"""From text to batches: characters as tokens, a training and a validation part, random windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npgpt2 import validate

Array = NDArray[Any]


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file.

    Raises
    ------
    OSError
        No such file, or not readable.
    ValueError
        The file is empty, or not UTF-8; the message says where.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")  # a byte-order mark is no text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}; "
            "convert it first, with iconv -f ITS_ENCODING -t UTF-8"
        ) from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def python_reference() -> str:
    """Return the Python language reference as shipped inside CPython, about 465,000 characters.

    It is what `help("assert")` and the like print; it differs a little between versions.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


@dataclass(frozen=True)
class Vocabulary:
    """Characters as tokens: the id of a character is its place in `characters`.

    >>> vocabulary = Vocabulary.of("hello")
    >>> vocabulary.characters
    'ehlo'
    >>> vocabulary.encode("hole")
    array([1, 3, 2, 0], dtype=uint32)
    >>> vocabulary.decode([1, 0])
    'he'
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise ValueError("a vocabulary is made of different characters in ascending order")

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the vocabulary of all characters in text."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Array:
        """Return the ids of the characters of text, (len(text),) uint32.

        Raises
        ------
        ValueError
            A character is not in the vocabulary.
        """
        known, codes = _code_points(self.characters), _code_points(text)
        ids = np.searchsorted(known, codes).clip(max=len(known) - 1).astype(np.uint32)
        unknown = np.flatnonzero(known[ids] != codes)
        if unknown.size:
            i = int(unknown[0])
            listed = repr(self.characters[:100]) + " and others" * (len(self) > 100)
            raise ValueError(
                f"character {text[i]!r} at position {i} is not among the {len(self)} characters "
                f"that the model was trained on: {listed}"
            )
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of a sequence of ids; IndexError if one is out of range."""
        checked = validate.ids("ids", ids, len(self)).reshape(-1)
        return "".join(self.characters[i] for i in checked.tolist())


def _code_points(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def split(tokens: Array, val_fraction: float, n_positions: int) -> tuple[Array, Array]:
    """Cut off the last val_fraction of tokens for validation; return (training, validation).

    Raises
    ------
    ValueError
        One part would be shorter than n_positions + 1, a single window with its targets.
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
    """Return the windows that begin at starts, and the same one token later: (inputs, targets).

    Both (B, T) with T = n_positions: targets[b, t] is what follows inputs[b, :t + 1].
    """
    chunk = tokens[starts[:, None] + np.arange(n_positions + 1)]  # (B, T + 1)
    return chunk[:, :-1], chunk[:, 1:]


def random_batch(
    tokens: Array, batch_size: int, n_positions: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return batch_size windows from random places, as (inputs, targets)."""
    starts = rng.integers(len(tokens) - n_positions, size=batch_size)
    return windows(tokens, starts, n_positions)
