"""docs/conformance.tsv lists every operation of the specification and says of each what is true today."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homeserver.web.messages import Request
from homeserver.web.routes import Auth, declared, route
from tests.conformance import (
    CALLED,
    ROOT,
    SHARED,
    UNJUDGED,
    UNTESTED,
    Operation,
    endpoint_modules,
    faults,
    is_test,
    key,
    read,
    render,
    routes,
    served,
    table,
    updated,
    witnessed,
)
from tests.witnesses import NOTES, best
from tests.witnesses import read as read_notes

SPECIFICATION = ROOT.parent / "shared" / "spec" / "endpoints.tsv"
LOGIN = Operation("client-server", "POST", "/_matrix/client/v3/login", "login")
ROUTES = {LOGIN.key: "homeserver.endpoints.login:log_in"}
ACCEPTED = {("POST", "/_matrix/client/v4/sync")}
"""What is accepted for a coming version of the specification, and served already."""
PAGES = {(method, "/_matrix/client/v3/auth/org.domicile.node/fallback/web") for method in ("GET", "POST")} | {
    key("GET", "/_matrix/client/v3/auth/{authType}/fallback/web")
}
"""Pages that the specification describes in its text alone. spec: client-server-api/#fallback"""
THIS_TEST = "tests/test_conformance.py::test_a_true_line_has_no_fault"


def test_the_ledger_says_what_the_routes_say() -> None:
    declared_routes = routes()
    assert [fault for operation in read() for fault in faults(operation, declared_routes)] == []


@pytest.mark.parametrize("called", sorted(CALLED.values()))
def test_what_is_called_is_called_by_something(called: str) -> None:
    module, _, name = called.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_stable_routes_are_operations_of_the_specification() -> None:
    """A path with a slip in it would otherwise serve nobody and be missed by nobody."""
    known = {operation.key for operation in read()} | ACCEPTED | PAGES
    strays = [
        f"{route.method} {route.path}"
        for route in table().routes
        if route.path.startswith(("/_matrix/client/v", "/_matrix/media/v", "/_matrix/federation/v", "/_matrix/key/v"))
        and not known & {key(route.method, path) for path in route.paths}
    ]
    assert strays == []


def test_the_ledger_has_every_operation_once() -> None:
    operations = read()
    assert len({(operation.method, operation.path) for operation in operations}) == len(operations) == 235
    twice = Counter(operation.key for operation in operations)
    assert {operation.operationId for operation in operations if twice[operation.key] > 1} == SHARED


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="the specification does not lie beside this checkout")
def test_the_operations_are_the_specifications() -> None:
    with SPECIFICATION.open(encoding="utf-8", newline="") as lines:
        specified = [
            (row["api"], row["method"], row["path"], row["operationId"])
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    assert [(o.api, o.method, o.path, o.operationId) for o in read()] == specified


def test_a_true_line_has_no_fault() -> None:
    served = replace(LOGIN, route=ROUTES[LOGIN.key])
    assert not list(faults(LOGIN, {}))
    assert not list(faults(replace(served, status="yes", test=THIS_TEST), ROUTES))
    assert not list(faults(replace(served, status="partial", note="no tokens"), ROUTES))


@pytest.mark.parametrize(
    ("line", "serving"),
    [
        (LOGIN, True),
        (replace(LOGIN, status="yes", test=THIS_TEST), False),
        (replace(LOGIN, status="partial", note="no tokens"), False),
        (replace(LOGIN, status="yes"), True),
        (replace(LOGIN, status="partial"), True),
        (replace(LOGIN, status="maybe"), True),
        (replace(LOGIN, status="yes", test="tests/test_conformance.py::test_lacking"), True),
        (replace(LOGIN, status="yes", test="tests/lacking.py::test_lacking"), True),
    ],
)
def test_an_untrue_line_is_seen(line: Operation, serving: bool) -> None:
    known = ROUTES if serving else {}
    if line.status != "no":
        line = replace(line, route=known.get(line.key, ""))
    assert list(faults(line, known))


def test_of_two_operations_with_one_address_one_may_be_unserved() -> None:
    known = {key("POST", "/_matrix/client/v3/rooms/{roomId}/invite"): "homeserver.endpoints.rooms:invite"}
    invite = Operation("client-server", "POST", "/_matrix/client/v3/rooms/{roomId}/invite ", "inviteUser")
    assert [line.status for line in updated([invite], known)] == ["partial"]
    by_address = replace(invite, path=invite.path.strip(), operationId="inviteBy3PID", note="not accepted")
    assert updated([by_address], known) == [by_address]
    assert not list(faults(by_address, known))
    assert list(faults(replace(by_address, note=""), known))


def test_a_stale_route_is_seen() -> None:
    line = replace(LOGIN, status="yes", route="homeserver.endpoints.session:log_in", test=THIS_TEST)
    assert len(list(faults(line, ROUTES))) == 1


def test_a_new_route_begins_as_partial_and_a_lost_one_ends_as_no() -> None:
    [begun] = updated([LOGIN], ROUTES)
    assert begun == replace(LOGIN, status="partial", route=ROUTES[LOGIN.key], note=UNTESTED)
    assert updated([begun], {}) == [LOGIN]
    shown = replace(begun, status="yes", test=THIS_TEST, note="")
    assert updated([shown], ROUTES) == [shown]


def test_a_test_that_asked_is_named_where_none_was() -> None:
    tests = {LOGIN.key: THIS_TEST}
    begun = replace(LOGIN, status="partial", route=ROUTES[LOGIN.key], note=UNTESTED)
    [named] = witnessed([begun], tests)
    assert named == replace(begun, test=THIS_TEST, note=UNJUDGED)
    assert updated([named], {}) == [LOGIN]
    lacking = replace(begun, note="no tokens")
    assert witnessed([lacking], tests) == [replace(lacking, test=THIS_TEST)]
    shown = replace(begun, status="yes", test="tests/other.py::test_other", note="")
    assert witnessed([shown, LOGIN], tests) == [shown, LOGIN]


def test_the_best_test_is_about_it_or_asks_least_beside_it() -> None:
    get_a, get_b = ("GET", "/v3/apples", "m:get_apples"), ("GET", "/v3/pears/{pear}", "m:get_pear")
    notes = {("play", *get_a), ("play", *get_b), ("play", "PUT", "/", "m:f"), ("test_other", *get_a)}
    assert best(notes)[get_a] == "test_other"
    assert best(notes)[get_b] == "play"
    notes |= {("test_an_apple", *where) for where in (get_a, get_b)}
    assert best(notes)[get_a] == "test_an_apple"


WATCHED = """
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, Table, declared, route
from homeserver.web.site import Site
from tests.support import aio


class Silent:
    def answered(self, *args): ...
    def failed(self, *args): ...


async def ping(server, request):
    return Response(int(request.args["status"]), b"")


route("GET", "/ping/{status}", auth=Auth.NONE)(ping)


async def asked(status):
    site = Site(None, Table(declared(ping)), authenticate=None, observer=Silent(), seconds=lambda: 0.0)
    assert (await site.call("GET", f"/ping/{status}")).status == status


@aio
async def test_pings():
    await asked(200)


@aio
async def test_fails():
    await asked(200)
    assert False


@aio
async def test_is_refused():
    await asked(403)


def test_asks_nothing(): ...
"""


def test_passing_tests_that_were_answered_are_noted(tmp_path: Path) -> None:
    (tmp_path / "test_pinging.py").write_text(WATCHED, encoding="utf-8")
    run = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    ran = subprocess.run(
        [*run, "-p", "tests.witnesses", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, NOTES: str(tmp_path / "notes")},
        capture_output=True,
        check=False,
        text=True,
    )
    assert "1 failed, 3 passed" in ran.stdout
    assert read_notes(tmp_path / "notes") == {
        ("test_pinging.py::test_pings", "GET", "/ping/{status}", "test_pinging:ping")
    }


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "ledger.tsv"
    path.write_text(render([LOGIN]), encoding="utf-8")
    assert read(path) == [LOGIN]
    path.write_text(render([LOGIN]) + "client-server\tGET\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"ledger\.tsv:3"):
        read(path)


async def state(server: object, request: Request) -> dict[str, Any]:
    return {}


def test_declarations_are_found_under_each_form_of_their_path() -> None:
    path = "/_matrix/client/v3/rooms/{room}/state/{type}"
    route("GET", path, auth=Auth.USER, also=["r0", path + "/{key}"])(state)
    assert served(declared(state)) == {
        key("GET", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}"): f"{__name__}:state",
        key("GET", "/_matrix/client/r0/rooms/{roomId}/state/{eventType}"): f"{__name__}:state",
        key("GET", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}"): f"{__name__}:state",
        key("GET", "/_matrix/client/r0/rooms/{roomId}/state/{eventType}/{stateKey}"): f"{__name__}:state",
    }


def test_the_modules_of_both_endpoint_packages_are_read() -> None:
    files = {
        path.relative_to(ROOT).as_posix().removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for package in ("homeserver/endpoints", "federation/endpoints")
        for path in ROOT.glob(f"{package}/**/*.py")
    }
    packages = {"homeserver.endpoints", "federation.endpoints"}
    assert {module.__name__ for module in endpoint_modules()} == files - packages


def test_only_tests_count_as_tests() -> None:
    assert is_test(THIS_TEST)
    assert not is_test("tests/conformance.py::routes")
