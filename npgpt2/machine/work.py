"""How a large piece of work is cut up: into blocks that stay in the cache, into tasks side by side.

NumPy lets other threads run while it computes, so Python threads can share large arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from numpy.typing import NDArray

BLOCK = 1 << 16  # elements: 256 KiB of float32


def blocks(a: NDArray[Any], size: int = BLOCK) -> Iterator[slice]:
    """Cut the first axis into slices of at most `size` elements, but at least one row each.

    A block stays in the processor's cache from the first pass over it to the last.

    >>> import numpy as np
    >>> list(blocks(np.empty((5, 100)), size=200))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    length = len(a)
    step = max(1, size * length // max(a.size, 1))
    return (slice(i, min(i + step, length)) for i in range(0, length, step))


def side_by_side(tasks: Sequence[Callable[[], object]], workers: int) -> None:
    """Run the tasks, at most `workers` at a time, each in a thread.

    If a task raises, its error is raised again here once all tasks have finished. With one worker
    there are no threads: the tasks run in order, and the first error ends them. Every task has the
    caller's NumPy error state. It takes about 0.1 ms to hand a task to a thread.
    """
    if workers < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(copy_context().run, task) for task in tasks]:
            done.result()
