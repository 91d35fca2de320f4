"""Blocks of work that stay in the processor's cache from the first pass over them to the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

BLOCK = 1 << 16  # elements: 256 KiB of float32


def blocks(a: NDArray[Any], size: int = BLOCK) -> Iterator[slice]:
    """Cut the first axis into slices of at most `size` elements, but at least one row each.

    >>> import numpy as np
    >>> list(blocks(np.empty((5, 100)), size=200))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    length = len(a)
    step = max(1, size * length // max(a.size, 1))
    return (slice(i, min(i + step, length)) for i in range(0, length, step))
