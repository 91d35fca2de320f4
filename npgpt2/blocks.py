"""Blocks of work that stay in the processor's cache from the first pass over them to the last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

BLOCK = 1 << 16  # elements: 256 KiB of float32
_LARGE = 1 << 20  # elements: what is worth a thread, as handing it out costs 0.1 ms


def blocks(a: NDArray[Any], size: int = BLOCK) -> Iterator[slice]:
    """Cut the first axis into slices of at most `size` elements, but at least one row each.

    >>> import numpy as np
    >>> list(blocks(np.empty((5, 100)), size=200))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    length = len(a)
    step = max(1, size * length // max(a.size, 1))
    return (slice(i, min(i + step, length)) for i in range(0, length, step))


def for_each_block(work: Callable[[slice], object], a: NDArray[Any]) -> None:
    """Call work(slice) for all blocks of a; by several threads, if it is large.

    Each thread takes one long stretch. NumPy lets them run side by side within a pass.
    """
    threads = min(cores(), a.size // _LARGE)
    if threads < 2:
        for n in blocks(a):
            work(n)
        return
    step = -(-len(a) // threads)

    def stretch(start: int) -> None:
        for n in blocks(a[start : start + step]):
            work(slice(start + n.start, start + n.stop))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(stretch, range(0, len(a), step)))


def cores() -> int:
    """Return the number of cores to use: OMP_NUM_THREADS, or all that this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
