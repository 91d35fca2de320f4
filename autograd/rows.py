"""Rows: the gradient of a table, if only some of its rows were used."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]


class Rows:
    """A table that is 0 except in some rows. A vjp may return `Rows` instead of an array.

    A batch of tokens uses a few hundred of the 50,257 rows of an embedding. When the engine adds
    `Rows` to another gradient, it changes only these rows. `.grad` is always an array.

    Parameters
    ----------
    shape
        (V, C), the shape of the table.
    ids
        (N,) integers in [0, V), the numbers of the rows.
    values
        (N, C), the rows. Rows with the same id are added up.

    Attributes
    ----------
    shape
        (V, C).
    ids
        (n,) integers, each id once, in ascending order.
    values
        (n, C), for each id the sum of its rows.

    Examples
    --------
    >>> rows = Rows((3, 2), [2, 1, 2], [[5.0, 6.0], [1.0, 1.0], [0.0, 2.0]])
    >>> rows
    Rows of a (3, 2) float64 table, at [1, 2]:
    array([[1., 1.],
           [5., 8.]])
    >>> np.ones((3, 2)) + rows
    array([[1., 1.],
           [2., 2.],
           [6., 9.]])
    """

    __array_ufunc__ = None  # so that NumPy leaves array + rows to __radd__

    def __init__(self, shape: tuple[int, ...], ids: ArrayLike, values: ArrayLike) -> None:
        ids, values = np.asarray(ids), np.asarray(values)
        order = ids.argsort(kind="stable")
        ordered = ids[order]
        begins = np.ones(len(ids), dtype=bool)  # True where a new id begins
        np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
        starts = np.flatnonzero(begins)
        self.shape, self.ids = shape, ordered[starts]
        self.values = values.take(order, axis=0)
        if len(starts) < len(ids):  # otherwise each id occurs once
            self.values = np.add.reduceat(self.values, starts, axis=0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.values.dtype

    def add_to(self, table: Array) -> None:
        """Add these rows to an array of the table's shape, in place."""
        table[self.ids] += self.values

    def __repr__(self) -> str:
        table = f"{self.shape} {self.dtype} table"
        return f"Rows of a {table}, at {self.ids.tolist()}:\n{self.values!r}"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        table = np.zeros(self.shape, dtype=self.dtype if dtype is None else dtype)
        table[self.ids] = self.values
        return table

    def __add__(self, other: Array | Rows) -> Array:
        table = np.array(other)
        self.add_to(table)
        return table

    __radd__ = __add__
