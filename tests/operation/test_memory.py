"""What an idle server does not hold."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from homeserver.runtime import memory

UNWANTED = ("psycopg", "PIL", "tomlkit")
"""PostgreSQL's library is for nodes that are on it, pictures are drawn in a process of their own."""


def test_a_server_on_sqlite_imports_no_more_than_it_needs() -> None:
    program = f"import sys, homeserver.app; print([name for name in {UNWANTED!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_glibc_takes_the_orders() -> None:
    program = "from homeserver.runtime import memory; print(memory.limit_arenas())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    memory.give_back()
