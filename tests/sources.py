"""Reading the program's own source."""

from __future__ import annotations

import ast
import gc


def parsed(source: str) -> ast.Module:
    """The syntax tree of a module, made while no garbage is collected.

    CPython 3.11 fails with SystemError ("recursion depth mismatch") when a finaliser that says something runs then.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()
