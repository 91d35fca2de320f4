"""What the command line sets, for speed, of the process it runs in. `import npgpt2` sets nothing.

`--no-tuning` leaves all of it alone.
"""

from __future__ import annotations

import ctypes
import sys


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
