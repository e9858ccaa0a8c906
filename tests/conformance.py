"""The conformance ledger: each operation of the Matrix specification, its route, and the test that shows it.

``docs/conformance.tsv`` has every operation and says "no" exactly where no route is declared, "partial" where
something is missing or nobody has judged, and "yes" where somebody has judged that the route does what the
specification says, and a test shows it. ``scripts/conformance`` brings the routes up to date, ``scripts/conformance
--tests`` names tests where none is named, ``scripts/conformance --check`` says what is stale or wrong. All else, "yes"
above all, is written by hand.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import federation.endpoints
import homeserver.endpoints
from homeserver.web.routes import Route, Table
from tests import witnesses
from tests.sources import parsed

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "docs" / "conformance.tsv"
UNTESTED = "no test is named yet"
UNJUDGED = "the test asks it with success; not yet judged against the specification"
SHARED = {"inviteUser", "inviteBy3PID", "getEvents", "peekEvents"}
"""Operations with the address of another one: with a note, the ledger may say no although there is a route."""

Key = tuple[str, str]
"""Method and path, the path's parameters without their names."""


@dataclass(frozen=True)
class Operation:
    """One line of the ledger. ``status`` is yes, partial or no; ``route`` is ``module:function``.

    ``test`` holds one or more pytest ids, separated by spaces.
    """

    api: str
    method: str
    path: str
    operationId: str  # noqa: N815  # the specification's spelling
    status: str = "no"
    route: str = ""
    test: str = ""
    note: str = ""

    @property
    def key(self) -> Key:
        return key(self.method, self.path)


COLUMNS = [field.name for field in fields(Operation)]


def key(method: str, path: str) -> Key:
    """What two spellings of one operation have in common.

    The specification writes a space behind the path of an operation whose method and path another one has.
    """
    return method, re.sub(r"{\w+}", "{}", path.strip())


def read(path: Path = LEDGER) -> list[Operation]:
    """The operations of a ledger. Raises ValueError on a malformed line."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if header.split("\t") != COLUMNS:
        raise ValueError(f"{path.name}: the columns must be {' '.join(COLUMNS)}")
    for number, line in enumerate(lines, start=2):
        if line.count("\t") != len(COLUMNS) - 1:
            raise ValueError(f"{path.name}:{number}: {line.count(chr(9)) + 1} columns instead of {len(COLUMNS)}")
    return [Operation(*line.split("\t")) for line in lines]


def render(operations: list[Operation]) -> str:
    """The text of the ledger."""
    lines = [COLUMNS, *(list(astuple(operation)) for operation in operations)]
    return "".join("\t".join(line) + "\n" for line in lines)


_SERVICES = "homeserver.application_services."
CALLED: Mapping[Key, str] = {
    ("POST", "/_matrix/push/v1/notify"): "homeserver.push.gateways:notify",
    ("PUT", "/_matrix/app/v1/transactions/{}"): _SERVICES + "sending.sender:send",
    ("POST", "/_matrix/app/v1/ping"): _SERVICES + "ping:ping",
    ("GET", "/_matrix/app/v1/users/{}"): _SERVICES + "queries:user",
    ("GET", "/_matrix/app/v1/rooms/{}"): _SERVICES + "queries:alias",
    ("GET", "/_matrix/app/v1/thirdparty/protocol/{}"): _SERVICES + "third_party:protocol",
    ("GET", "/_matrix/app/v1/thirdparty/user/{}"): _SERVICES + "third_party:look_up",
    ("GET", "/_matrix/app/v1/thirdparty/location/{}"): _SERVICES + "third_party:look_up",
    ("GET", "/_matrix/app/v1/thirdparty/user"): _SERVICES + "third_party:leads_to",
    ("GET", "/_matrix/app/v1/thirdparty/location"): _SERVICES + "third_party:leads_to",
}
"""Operations that others serve and a homeserver calls, by the function that does."""


def routes() -> dict[Key, str]:
    """Every route that a module of the endpoint packages declares, as ``module:function``, and what is `CALLED`."""
    return {**CALLED, **served(table().routes)}


def table() -> Table[Any]:
    """The routes of all endpoint packages."""
    return Table.of(*endpoint_modules())


def endpoint_modules() -> list[ModuleType]:
    """The modules of the endpoint packages."""
    names = [
        found.name
        for package in (homeserver.endpoints, federation.endpoints)
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    ]
    return [importlib.import_module(name) for name in sorted(names)]


def served(declared: Iterable[Route[Any]]) -> dict[Key, str]:
    """The routes by what they serve, under each form of their path."""
    return {
        key(route.method, path): f"{route.endpoint.__module__}:{route.endpoint.__name__}"
        for route in declared
        for path in route.paths
    }


def updated(operations: list[Operation], declared: Mapping[Key, str]) -> list[Operation]:
    """The ledger with its routes as declared. A new route begins as partial until somebody names its test."""
    return [with_route(operation, declared.get(operation.key, "")) for operation in operations]


def with_route(operation: Operation, route: str) -> Operation:
    if not route:
        note = "" if operation.note in {UNTESTED, UNJUDGED} else operation.note
        return replace(operation, status="no", route="", test="", note=note)
    if operation.status == "no" and not unserved(operation):
        return replace(operation, status="partial", route=route, note=operation.note or UNTESTED)
    return operation if operation.status == "no" else replace(operation, route=route)


def unserved(operation: Operation) -> bool:
    """Whether the route of this address is known to serve another operation only."""
    return operation.status == "no" and operation.operationId in SHARED and bool(operation.note)


def witnessed(operations: list[Operation], tests: Mapping[Key, str]) -> list[Operation]:
    """The ledger with tests named where none was.

    That a test got an answer does not make an operation served as the specification has it: somebody judges that.
    """
    return [with_test(operation, tests.get(operation.key, "")) for operation in operations]


def with_test(operation: Operation, test: str) -> Operation:
    if operation.test or not test or operation.status == "no":
        return operation
    return replace(operation, test=test, note=UNJUDGED if operation.note == UNTESTED else operation.note)


def faults(operation: Operation, declared: Mapping[Key, str]) -> Iterator[str]:
    """What is wrong with one line of the ledger."""
    name = f"{operation.method} {operation.path}"
    route = "" if unserved(operation) else declared.get(operation.key, "")
    if operation.status not in {"yes", "partial", "no"}:
        yield f"{name}: the status is {operation.status!r}, not yes, partial or no"
    if operation.status == "no" and route:
        yield f"{name}: the ledger says no, {route} serves it"
    if operation.status != "no" and not route:
        yield f"{name}: the ledger says {operation.status}, no route serves it"
    if operation.route != route:
        yield f"{name}: the ledger says {operation.route or 'no route'}, the code {route or 'no route'}"
    if operation.status == "yes" and not operation.test:
        yield f"{name}: the ledger says yes and names no test"
    if operation.status == "partial" and not operation.note:
        yield f"{name}: the ledger says partial and does not note what is missing"
    yield from (f"{name}: there is no test {test}" for test in operation.test.split() if not is_test(test))


def is_test(identifier: str) -> bool:
    """Whether a pytest id, ``tests/….py::test_name``, names a test function that exists."""
    name, _, function = identifier.partition("::")
    path = ROOT / name
    if not function.startswith("test_") or not path.is_file():
        return False
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
        for node in ast.walk(parsed(path.read_text(encoding="utf-8")))
    )


def main() -> int:
    """Bring the ledger up to date, or with ``--check`` say what is stale or wrong in it (exit status 1)."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--witnesses", type=Path, metavar="FOLDER", help="name tests from the notes of a run")
    arguments = parser.parse_args()
    declared = routes()
    operations = read()
    if not arguments.check:
        operations = updated(operations, declared)
        if arguments.witnesses:
            tests = {
                key(method, path): test
                for (method, path, function), test in witnesses.best(witnesses.read(arguments.witnesses)).items()
                if declared.get(key(method, path)) == function
            }
            operations = witnessed(operations, tests)
        LEDGER.write_text(render(operations), encoding="utf-8")
    found = [fault for operation in operations for fault in faults(operation, declared)]
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
