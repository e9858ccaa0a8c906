"""A process that crashes leaves no copy of its memory: addresses wait there in the clear until they are sealed."""

from __future__ import annotations

import resource
from typing import Final

_NONE: Final = 1
"""Bytes. To Linux, 0 still means a copy where a program is fed with it (systemd-coredump, apport); 1 means neither."""


def forbid() -> None:
    """Forbid them for this process, and those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = _NONE if hard == resource.RLIM_INFINITY else min(_NONE, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
