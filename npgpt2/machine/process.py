"""What the command line sets, for speed, of the process it runs in. `import npgpt2` sets nothing.

`npgpt2 train` and `npgpt2 generate` call `tune`; with `--no-tuning` they do not. A program of
one's own may call it as well, before the work begins.
"""

from __future__ import annotations

import ctypes
import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_limit: int | None = None  # of threads


def tune(threads: int | None = None) -> None:
    """Keep freed memory; and let each computation use so many threads, if that is given.

    Raises
    ------
    ImportError
        threads is given and threadpoolctl is missing.
    """
    keep_freed_memory()
    if threads is not None:
        limit_threads(threads)


def keep_freed_memory() -> bool:
    """Let freed memory be used again instead of giving it back to the operating system.

    A step frees and allocates the same arrays as the one before. By default the C library returns
    the larger ones to the kernel, which hands them out again page by page, each with a fault of
    several microseconds and zeroed. Here freed memory stays with the process, until it ends.

    Returns
    -------
    bool
        Whether it could be set: where the C library is glibc, as on most Linux systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other C libraries take mallopt and ignore it
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_max = -1, -4  # names of <malloc.h>, M_TRIM_THRESHOLD and M_MMAP_MAX
    never = -1
    return bool(libc.mallopt(trim_threshold, never) and libc.mallopt(mmap_max, 0))


def thread_limit() -> int:
    """Return how many threads a computation may use.

    As `limit_threads` or the environment says (OMP_, OPENBLAS_ or MKL_NUM_THREADS), else one for
    each core.
    """
    values = (os.environ.get(name, "") for name in _VARIABLES)
    wished = (int(value) for value in values if value.isdecimal())
    return _limit or next(filter(None, wished), len(cores()))


def cores() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def limit_threads(n: int) -> bool:
    """Let each computation use n threads at most, from now on.

    BLAS takes as many threads as there are cores, in every process. Where several processes train
    on one machine, its threads then wait for each other.

    Returns
    -------
    bool
        Whether it was set: not if the user has, by OMP_NUM_THREADS or the like.

    Raises
    ------
    ImportError
        threadpoolctl is missing.
    """
    if any(name in os.environ for name in _VARIABLES):
        return False
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError(
            "sharing the cores among ranks needs threadpoolctl: pip install 'npgpt2[mpi]', or "
            "leave threads as they are with --no-tuning"
        ) from error
    global _limit
    _limit = n
    threadpool_limits(n)
    return True
