"""What the C library does with freed memory. Both functions do nothing where there is no glibc."""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS: Final = 2
"""glibc makes up to 8 arenas for each processor, one for each thread that allocates while another does, and what is
freed in one of them serves no other. The databases' threads allocate little, and hold the interpreter's lock for it."""

_M_ARENA_MAX: Final = -8


def limit_arenas() -> bool:
    """Let the threads share a few arenas; whether that could be ordered. To be called before there are threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, ARENAS))


def give_back() -> None:
    """Return to the system what is free, also in the middle of the heap: glibc by itself returns only its end."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
