"""What becomes of memory that nobody needs. What is about the C library does nothing where there is no glibc."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

ARENAS: Final = 2
"""glibc makes up to 8 arenas for each processor, one for each thread that allocates while another does, and what is
freed in one of them serves no other. The databases' threads allocate little, and hold the interpreter's lock for it."""

_M_ARENA_MAX: Final = -8

_YOUNG: Final = 20_000
"""Objects that are made, beyond those that go, before Python looks for cycles among them. The default, 700, is less
than the JSON of one larger request; and few cycles are made here."""


def limit_arenas() -> bool:
    """Let the threads share a few arenas; whether that could be ordered. To be called before there are threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, ARENAS))


def give_back() -> None:
    """Return to the system what is free, also in the middle of the heap: glibc by itself returns only its end."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle() -> None:
    """Call all that is in memory permanent. To be called once, when everything has been loaded.

    Python's search for cycles goes through all objects there are each time that their number has grown by a quarter,
    and all requests wait for it: of those that come with the program, 300 000, none is ever garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)
