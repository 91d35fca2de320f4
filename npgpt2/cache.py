"""A cache for keys and values, so that a model reads each token of a text only once.

In causal attention, a token attends only to tokens up to its own position. So its keys and values
do not change when more tokens follow. If a model keeps them, it computes only one position for each
new token, instead of the whole text again.

Letters: see `config.py`.
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

    `model(input_ids, cache=cache)` reads input_ids after the tokens in the cache, and adds them to
    the cache. Rows may have different lengths: fill the shorter rows up at their end with any ids,
    and pass the true lengths to `truncate` afterwards.

    Parameters
    ----------
    config
        The configuration of the model.
    batch_size
        B, the number of rows.
    capacity
        Number of positions that the cache has room for. The default, and the largest allowed value,
        is n_positions.
    dtype
        The dtype of the model.

    Attributes
    ----------
    capacity
        Number of positions that the cache has room for.

    Raises
    ------
    TypeError, ValueError
        An argument lies outside its limits.

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
        config = GPT2Config.require(config)
        B, P = validate.integer("batch_size", batch_size), config.n_positions
        self.capacity = validate.integer("capacity", P if capacity is None else capacity)
        if self.capacity > P:
            raise ValueError(f"capacity={capacity} must be at most n_positions={P}")
        self._lengths = _constant(np.zeros(B, dtype=np.intp))
        self._fits = (config.n_layer, config.n_head, config.head_size, validate.dtype(dtype))
        # Zeros take no memory until something is written to them. Attention multiplies the entries
        # beyond a row's length by 0, so they must not be NaN.
        shape = (2, B, config.n_head, self.capacity, config.head_size)
        self._layers = [np.zeros(shape, self._fits[-1]) for _ in range(config.n_layer)]

    @property
    def lengths(self) -> Array:
        """Number of tokens read in each row, (B,) integers. Read-only; `truncate` lowers it."""
        return self._lengths

    def truncate(self, lengths: ArrayLike) -> None:
        """Remove the last tokens of each row, so that row b keeps its first lengths[b] tokens.

        Parameters
        ----------
        lengths
            (B,) integers, each from 0 to the number of tokens read.

        Raises
        ------
        TypeError, ValueError
            The lengths do not fit. The cache has not changed.
        """
        new = validate.integers("lengths", lengths)
        if new.shape != self._lengths.shape or (new < 0).any() or (new > self._lengths).any():
            raise ValueError(
                f"lengths={new.tolist()} must be {len(self._lengths)} numbers from 0 to the number "
                f"of tokens read, {self._lengths.tolist()}"
            )
        self._lengths = _constant(new.astype(np.intp))

    def require_model(self, config: GPT2Config, dtype: DTypeLike) -> None:
        """Raise ValueError unless the cache fits a model of this configuration and dtype."""
        fits = (config.n_layer, config.n_head, config.head_size, np.dtype(dtype))
        if fits != self._fits or self.capacity > config.n_positions:
            raise ValueError(
                "a cache for (n_layer, n_head, head_size, dtype) = "
                f"{self._fits} and {self.capacity} positions does not fit a model of {fits} and "
                f"n_positions={config.n_positions}; make one with model.make_cache()"
            )

    def reserve(self, B: int, T: int) -> tuple[list[Past], Array]:
        """Make room for T more tokens in each of B rows.

        The tokens count as read after `advance(T)`.

        Returns
        -------
        list of Past, array
            A `Past` for each layer, and the positions of the new tokens, (B, T).

        Raises
        ------
        ValueError
            The cache has another number of rows, or no room for T more tokens.
        """
        if len(self._lengths) != B:
            raise ValueError(f"a cache of {len(self._lengths)} rows cannot take {B} rows")
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
    """The keys and values of one layer, and the positions of the new tokens.

    Attributes
    ----------
    kv
        (2, B, H, capacity, D): the keys, then the values.
    positions
        (B, T) integers, the positions of the new tokens.
    end
        S, the largest of these positions + 1.
    start
        The position of the first new token, if it is the same in all rows, otherwise None.
    """

    kv: Array
    positions: Array
    end: int
    start: int | None

    def extend(self, kv: Array) -> Array:
        """Add the new keys and values, (2, B, H, T, D); return all of them, (2, B, H, S, D)."""
        if self.start is not None:
            self.kv[:, :, :, self.start : self.end] = kv
        else:
            for b, positions in enumerate(self.positions):
                self.kv[:, b, :, positions] = kv[:, b].transpose(2, 0, 1, 3)  # (T, 2, H, D)
        return self.kv[:, :, :, : self.end]
