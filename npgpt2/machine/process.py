"""Settings of the whole process, for speed: the reuse of memory, and the number of threads.

`npgpt2 train`, `npgpt2 generate` and `npgpt2 eval` call `tune`, unless you pass `--no-tuning`. Your
own program may call `tune` too, before its work begins. `import npgpt2` changes no setting.
"""

from __future__ import annotations

import ctypes
import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_limit: int | None = None  # of threads


def tune(threads: int | None = None) -> None:
    """Keep freed memory. If `threads` is given, it limits the threads of each computation.

    Raises
    ------
    ImportError
        threads is given, and threadpoolctl is missing.
    """
    keep_freed_memory()
    if threads is not None:
        limit_threads(threads)


def keep_freed_memory() -> bool:
    """Keep freed memory for later arrays, instead of giving it back to the operating system.

    Every training step allocates and frees the same arrays. By default the C library returns the
    memory of the larger ones to the kernel. The kernel gives it back page by page. Each page costs
    a page fault of several microseconds, and is filled with zeros. With this setting, freed memory
    stays with the process until the process ends.

    Returns
    -------
    bool
        Whether the setting was changed. This needs glibc, the C library of most Linux systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other C libraries accept mallopt and ignore it
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX in <malloc.h>
    never = -1
    return bool(libc.mallopt(trim_threshold, never) and libc.mallopt(mmap_max, 0))


def thread_limit() -> int:
    """Return the number of threads that a computation may use.

    It is the limit that `limit_threads` has set; otherwise the first of OMP_NUM_THREADS,
    OPENBLAS_NUM_THREADS and MKL_NUM_THREADS that is set in the environment; otherwise the number of
    cores.
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
    """Let each computation use at most n threads from now on.

    By default, BLAS uses one thread per core in every process. If several processes train on one
    machine, these threads wait for each other.

    Returns
    -------
    bool
        Whether the limit was set. It is not set if OMP_NUM_THREADS, OPENBLAS_NUM_THREADS or
        MKL_NUM_THREADS is in the environment, because then the user has chosen.

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
            "dividing the cores among ranks needs threadpoolctl: pip install 'npgpt2[mpi]', or "
            "pass --no-tuning, which does not change the threads"
        ) from error
    global _limit
    _limit = n
    threadpool_limits(n)
    return True
