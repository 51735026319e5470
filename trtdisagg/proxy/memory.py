"""Memory that is free stays with the process. The C library would give the top of the heap back to the kernel with each
request whose body is some 10 KiB, and have it back with the next, page by page and zeroed.

Known of glibc; other C libraries do as they do.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Of `malloc.h`."""
KEPT_BYTES = 32 * 1024 * 1024
"""Free at the top of the heap before any is given back."""
TAKEN_BYTES = 1024 * 1024
"""More than asked for, whenever the heap grows."""
LARGE_BYTES = 4 * 1024 * 1024
"""From here on memory is had from the kernel and given back alone."""


def keep_memory() -> None:
    """Have this process keep what it frees, up to `KEPT_BYTES`."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for what, num_bytes in ((_TRIM_THRESHOLD, KEPT_BYTES), (_TOP_PAD, TAKEN_BYTES), (_MMAP_THRESHOLD, LARGE_BYTES)):
        mallopt(what, num_bytes)
