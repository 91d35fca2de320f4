"""Rows: the gradient of a table of which only some rows were used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]


class Rows:
    """A table that is 0 but for some rows. A vjp may return one in place of an array.

    A batch of tokens uses a few hundred rows of an embedding of 50,257. The engine adds such a
    gradient to others by touching these rows alone; what ends up in `.grad` is an array.

    Attributes
    ----------
    shape
        (V, ...), that of the table.
    ids
        (n,) integers in [0, V), each once.
    values
        (n, ...), the rows at these ids.

    Examples
    --------
    >>> rows = Rows((3, 2), [2], [[5.0, 6.0]])
    >>> np.asarray(rows)
    array([[0., 0.],
           [0., 0.],
           [5., 6.]])
    >>> np.ones((3, 2)) + rows
    array([[1., 1.],
           [1., 1.],
           [6., 7.]])
    """

    __array_ufunc__ = None  # so that array + rows is left to __radd__

    def __init__(self, shape: tuple[int, ...], ids: ArrayLike, values: ArrayLike) -> None:
        self.shape, self.ids, self.values = shape, np.asarray(ids), np.asarray(values)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.values.dtype

    def add_to(self, table: Array) -> None:
        """Add to the rows of a table, in place."""
        table[self.ids] += self.values

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        table = np.zeros(self.shape, dtype=self.dtype if dtype is None else dtype)
        table[self.ids] = self.values
        return table

    def __add__(self, other: Array | Rows) -> Array:
        table = np.array(other)
        self.add_to(table)
        return table

    __radd__ = __add__
