"""Cut large work into blocks that stay in the processor's cache, or into tasks for several threads.

Threads help because NumPy lets other threads run while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from numpy.typing import NDArray

# Elements in a block, 256 KiB of float32. A larger block does not stay in the cache between the
# passes over it; a smaller block means more NumPy calls. The number was chosen for speed on 2 cores
# of an AMD EPYC (Zen 3). Measure it with `python -m tests.benchmarks.step char gpt2`.
BLOCK = 1 << 16


def blocks(a: NDArray[Any], size: int = BLOCK) -> Iterator[slice]:
    """Cut the first axis into slices of at most `size` elements, but at least one row each.

    A block stays in the processor's cache from the first pass over it to the last.

    >>> import numpy as np
    >>> list(blocks(np.empty((5, 100)), size=200))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    length = len(a)
    if 0 < a.size <= size:  # the general case below is slower
        return iter((slice(0, length),))
    step = max(1, size * length // max(a.size, 1))
    return (slice(i, min(i + step, length)) for i in range(0, length, step))


def side_by_side(tasks: Sequence[Callable[[], object]], workers: int) -> None:
    """Run the tasks in threads, at most `workers` at a time.

    If a task raises an error, it is raised again here once all tasks have finished. With one worker
    there are no threads: the tasks run in order, and the first error ends them. Every task has the
    caller's NumPy error state. Handing a task to a thread takes about 0.1 ms.
    """
    if workers < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(copy_context().run, task) for task in tasks]:
            done.result()
