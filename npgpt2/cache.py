"""Keys and values of the tokens that a model has read, so that it reads each of them once.

In causal attention a token's query meets the keys and values of the tokens up to it, and those stay
what they are when tokens are added. So a model that keeps them continues a text with the work of
one token for each new one, instead of that of the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from autograd import Array
from npgpt2 import validate
from npgpt2.config import GPT2Config


class KVCache:
    """The keys and values of every layer, in arrays that are allocated once.

    `model(input_ids, cache=cache)` reads input_ids after the tokens that the cache has, and adds
    them. Rows may have different lengths: fill shorter ones up at their end with any ids, and set
    `lengths` to the true numbers afterwards.

    Parameters
    ----------
    config
        That of the model.
    batch_size
        B, number of rows.
    capacity
        Number of positions to make room for: n_positions, unless a smaller number will do.
    dtype
        That of the model.

    Attributes
    ----------
    capacity
        As given.

    Raises
    ------
    TypeError, ValueError
        An argument outside its limits.

    Examples
    --------
    >>> from npgpt2 import GPT2Config, GPT2Model
    >>> config = GPT2Config(vocab_size=10, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    >>> model = GPT2Model(config)
    >>> cache = model.make_cache(batch_size=1)
    >>> with model.evaluating():
    ...     parts = [model(ids, cache=cache) for ids in ([[1, 2, 3]], [[4]])]
    ...     whole = model([[1, 2, 3, 4]])
    >>> cache.lengths
    array([4])
    >>> np.allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)
    True
    """

    def __init__(
        self,
        config: GPT2Config,
        batch_size: int,
        capacity: int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        B, P = validate.integer("batch_size", batch_size), config.n_positions
        self.capacity = validate.integer("capacity", P if capacity is None else capacity)
        if self.capacity > P:
            raise ValueError(f"capacity={capacity} must be at most n_positions={P}")
        self._lengths = _constant(np.zeros(B, dtype=np.intp))
        self._fits = (config.n_layer, config.n_head, config.head_size, validate.dtype(dtype))
        # Zeros, which take no memory until they are written to: what lies beyond a row's length
        # is multiplied by 0, and must not be NaN.
        shape = (2, B, config.n_head, self.capacity, config.head_size)
        self._layers = [np.zeros(shape, self._fits[-1]) for _ in range(config.n_layer)]

    @property
    def lengths(self) -> Array:
        """Number of tokens read in each row, (B,) integers; read-only, see `truncate`."""
        return self._lengths

    def truncate(self, lengths: ArrayLike) -> None:
        """Take back the last tokens of each row, so that `lengths` tokens of it remain.

        Parameters
        ----------
        lengths
            (B,) integers, each from 0 to the number of tokens read.

        Raises
        ------
        TypeError, ValueError
            The lengths are not such numbers. Nothing has changed.
        """
        new = np.asarray(lengths)
        if new.dtype.kind not in "iu":
            raise TypeError(f"lengths must be integers, not {new.dtype}")
        if new.shape != self._lengths.shape or (new < 0).any() or (new > self._lengths).any():
            raise ValueError(
                f"lengths={new.tolist()} must be {len(self._lengths)} numbers from 0 to what has "
                f"been read, {self._lengths.tolist()}"
            )
        self._lengths = _constant(new.astype(np.intp))

    def require_model(self, config: GPT2Config, dtype: DTypeLike) -> None:
        """Check that the cache is one for such a model; ValueError if not."""
        fits = (config.n_layer, config.n_head, config.head_size, np.dtype(dtype))
        if fits != self._fits or self.capacity > config.n_positions:
            raise ValueError(
                "a cache for (n_layer, n_head, head_size, dtype) = "
                f"{self._fits} and {self.capacity} positions does not fit a model of {fits} and "
                f"n_positions={config.n_positions}; make one with model.make_cache()"
            )

    def reserve(self, B: int, T: int) -> tuple[list[Past], Array]:
        """Return what T more tokens of each row follow, for each layer, and their positions (B, T).

        They count as read after `advance(T)`.

        Raises
        ------
        ValueError
            Not the cache's number of rows, or no room for T more.
        """
        if len(self._lengths) != B:
            raise ValueError(f"a cache of {len(self._lengths)} rows cannot take {B}")
        first, last = int(self._lengths.min()), int(self._lengths.max())
        if last + T > self.capacity:
            raise ValueError(
                f"{last} tokens in the cache and {T} new ones exceed its capacity of "
                f"{self.capacity}; make a larger one, or read the last tokens again into a new one"
            )
        positions = self._lengths[:, None] + np.arange(T)  # (B, T)
        start = first if first == last else None
        return [Past(layer, positions, last + T, start) for layer in self._layers], positions

    def advance(self, T: int) -> None:
        """Count T more tokens of each row as read."""
        self._lengths = _constant(self._lengths + T)


def _constant(array: Array) -> Array:
    array.setflags(write=False)
    return array


@dataclass(slots=True)
class Past:
    """Where the new tokens of one layer stand, and the keys and values of those before.

    Attributes
    ----------
    kv
        (2, B, H, capacity, D): keys, and values.
    positions
        (B, T) integers, of the new tokens.
    end
        One past the largest of them.
    start
        The position that the new tokens of all rows begin at; None if rows differ.
    """

    kv: Array
    positions: Array
    end: int
    start: int | None

    def extend(self, kv: Array) -> Array:
        """Add the new keys and values, (2, B, H, T, D); return all, (2, B, H, end, D)."""
        if self.start is not None:
            self.kv[:, :, :, self.start : self.end] = kv
        else:
            for b, positions in enumerate(self.positions):
                self.kv[:, b, :, positions] = kv[:, b].transpose(2, 0, 1, 3)  # (T, 2, H, D)
        return self.kv[:, :, :, : self.end]
