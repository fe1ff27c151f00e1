"""How the C library hands out memory, which decides a fifth or more of a training step on a CPU."""

import ctypes

# mallopt(3): parameters of glibc's malloc.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TRIM_BYTES, PAD_BYTES = 2_000_000_000, 2**28


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of giving it back and asking for it again.

    A step allocates and frees the same tens of megabytes many times, and each time the kernel would fill new
    pages with zeros. The process stays at its largest size instead. True if the C library is glibc, for
    others nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, TRIM_BYTES), (M_TOP_PAD, PAD_BYTES))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
