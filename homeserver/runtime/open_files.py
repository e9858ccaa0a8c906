"""How many files and connections the process may have open at once.

Debian gives a process 1024 unless it asks for more; clients must not be able to use up what the databases need.
"""

from __future__ import annotations

import resource
from typing import Final

RESERVED: Final = 1000
"""Open files for all but clients: databases, media, other servers."""


def room_for(connections: int) -> int:
    """Allow the process so many connections of clients beside all else, as far as the system lets it.

    Returns how many there may be: fewer when the system's hard limit of open files is too low; then half of that limit
    at most is kept for all else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    if soft == resource.RLIM_INFINITY:
        return connections
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, soft - min(RESERVED, soft // 2))
