"""Dropout masks for some rows of a batch that several processes share.

A process that trains on rows 4 to 7 of a batch must drop the same entries as a process that has the
whole batch. So it draws the masks of all rows, and uses only the masks of its own rows. Then the
generators of all processes are in the same state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from npgpt2.layers import Dropout
from npgpt2.module import Module


@contextmanager
def dropout_of_batch(model: Module, batch_size: int, rows: slice) -> Iterator[None]:
    """Inside this block, dropout treats the model's input as these rows of a larger batch.

    Not thread-safe: it replaces the generators of dropout for every thread that uses this model.

    Parameters
    ----------
    model
        Inside the block, its input must be the given rows of the batch.
    batch_size
        Number of rows in the whole batch.
    rows
        The rows of the batch that the model gets.
    """
    before = [(module, module.rng) for module in model.modules() if isinstance(module, Dropout)]
    for module, rng in before:
        module.rng = _DrawsWholeBatch(rng, batch_size, rows)
    try:
        yield
    finally:
        for module, rng in before:
            module.rng = rng


class _DrawsWholeBatch(np.random.Generator):
    """Draws numbers for all rows of a batch from another generator; returns only some rows."""

    def __init__(self, rng: np.random.Generator, batch_size: int, rows: slice) -> None:
        super().__init__(rng.bit_generator)
        self._batch_size, self._rows = batch_size, rows

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Draw (B, ...) numbers for a size of (b, ...); return the b rows of this process."""
        return super().random((self._batch_size, *size[1:]), dtype=dtype)[self._rows]
