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


def test_what_was_loaded_is_not_searched_for_garbage() -> None:
    program = (
        "import gc; before = gc.get_threshold()[0]; from homeserver.runtime import memory; memory.settle();"
        " print(gc.isenabled(), gc.get_freeze_count() > 1000, gc.get_threshold()[0] > before,"
        " len(gc.get_objects()) < 1000)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True True True True\n"
