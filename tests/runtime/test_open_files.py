"""The limit of open files: raised as far as the system lets it, and never used up by clients alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from homeserver.runtime.open_files import room_for
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(room_for({connections}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "expected"),
    [
        (100, 4000, 500, (500, 1500, 4000)),  # raised as far as is needed
        (100, 4000, 20000, (3000, 4000, 4000)),  # as far as the system lets it
        (200, 200, 20000, (100, 200, 200)),  # not at all: half is for clients
        (3000, 4000, 500, (500, 3000, 4000)),  # there is enough
    ],
)
def test_room_for_connections(soft: int, hard: int, connections: int, expected: tuple[int, int, int]) -> None:
    program = PROGRAM.format(soft=soft, hard=hard, connections=connections)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert tuple(map(int, done.stdout.split())) == expected
