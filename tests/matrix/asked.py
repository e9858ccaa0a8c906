"""Where in the source the policy is asked, and which of these places were told no while the matrix was tried.

A place is the function that asks, by module and name. One that only passes the question on counts as well.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from config import policy
from homeserver.protocol.errors import Refusal
from homeserver.residency import gate
from homeserver.web.routes import Auth, Table
from tests.conformance import table
from tests.network import Exchange

ROOT = Path(__file__).resolve().parent.parent.parent
ASKING = {"may", "may_in_time", "check", "check_room", "room_may_span"}
OF_POLICY = {"may", "room_may_span"}
_WORDS = re.compile(r"\bgate\.\w+\(|\.may\(|\.room_may_span\(")
_PARTS = {"federation", "policy", "key", "v1", "v2"}
_BETWEEN = {gate.__name__, policy.__name__, __name__}


@cache
def places() -> frozenset[str]:
    """The functions of the product in which the policy is asked whether something may leave."""
    found: set[str] = set()
    for top in ("homeserver", "federation"):
        for path in sorted((ROOT / top).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if module != gate.__name__:
                found |= {f"{module}.{name}" for name in _in(path.read_text("utf-8"))}
    return frozenset(found)


def _in(source: str) -> Iterator[str]:
    """The functions of a module; most have no word of it."""
    return functions(ast.parse(source), "") if _WORDS.search(source) else iter(())


def functions(node: ast.AST, within: str) -> Iterator[str]:
    """The outermost functions, or methods, below a node that ask the policy."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from functions(child, f"{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(_asks(each) for each in ast.walk(child)):
                yield within + child.name
        else:
            yield from functions(child, within)


def _asks(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    of, name = node.func.value, node.func.attr
    return name in (ASKING if isinstance(of, ast.Name) and of.id == "gate" else OF_POLICY)


class Spy:
    """Notes which places were told no: ``denials``."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.denials: set[str] = set()
        self._noting = False
        for name in OF_POLICY:
            self._watch(patch, name)

    def begin(self) -> None:
        """Note from now on."""
        self._noting = True

    def _watch(self, patch: pytest.MonkeyPatch, name: str) -> None:
        asked = getattr(policy.Policy, name)

        @wraps(asked)
        def watched(*args: Any) -> Any:
            verdict = asked(*args)
            if self._noting and (not verdict if name == "may" else verdict):
                self.denials |= set(_callers(sys._getframe(1)))
            return verdict

        patch.setattr(policy.Policy, name, watched)

    def route(self, exchange: Exchange) -> str:
        """The name of the route of a request to another server (see `routes`)."""
        return _route(exchange.method, exchange.target.partition("?")[0])


def _callers(frame: FrameType | None) -> Iterator[str]:
    """Who asks, and who had it asked, as far as they wait for it."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith(("homeserver.", "federation.")) and module not in _BETWEEN:
            yield f"{module}.{frame.f_code.co_qualname.partition('.<locals>')[0]}"
        frame = frame.f_back


@cache
def _table() -> Table[Any]:
    return table()


@cache
def _route(method: str, path: str) -> str:
    try:
        return _name(_table().match(method, path)[0].path)
    except Refusal:
        return path


def _name(path: str) -> str:
    """``make_join`` for ``/_matrix/federation/v1/make_join/{roomId}/{userId}``."""
    return "/".join(part for part in path.split("/")[2:] if part[:1] != "{" and part not in _PARTS)


def routes() -> set[str]:
    """The names of the product's routes that other servers sign their requests to."""
    return {_name(route.path) for route in _table().routes if route.auth is Auth.SIGNED}
