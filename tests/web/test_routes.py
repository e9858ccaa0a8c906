"""Which route answers which address."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.errors import InvalidParam, MethodNotAllowed, Unrecognized
from homeserver.web.limits import Limit
from homeserver.web.messages import Request
from homeserver.web.routes import SMALL_BODY, Auth, Resource, Route, Table, declared, route
from tests.web import stage

CS = "/_matrix/client/v3"


def table(*declarations: str) -> Table[Any]:
    """A table of ``METHOD /path [also…]``."""
    routes: list[Route[Any]] = []
    for text in declarations:
        method, path, *also = text.split()

        @route(method, path, auth=Auth.NONE, also=also)
        async def endpoint(server: Any, request: Request) -> dict[str, Any]:
            return {}

        routes += declared(endpoint)
    return Table(routes)


def found(at: Table[Any], method: str, path: str) -> tuple[str, dict[str, str]]:
    matched, args = at.match(method, path)
    return matched.path, args


TABLE = table(
    f"GET {CS}/pushrules/ {CS}/pushrules",
    f"GET {CS}/pushrules/global/{{kind}}/{{ruleId}}",
    f"GET {CS}/pushrules/global/{{kind}}/{{ruleId}}/enabled",
    f"GET {CS}/rooms/{{roomId}}/state",
    f"PUT {CS}/rooms/{{roomId}}/state/{{eventType}}/{{stateKey}} "
    f"{CS}/rooms/{{roomId}}/state/{{eventType}} {CS}/rooms/{{roomId}}/state/{{eventType}}/",
    f"GET {CS}/profile/{{userId}}",
    f"GET {CS}/profile/{{userId}}/{{keyName}}",
    f"GET {CS}/events",
    f"PUT {CS}/events/{{eventId}}",
    f"GET {CS}/room_keys/version",
    f"GET {CS}/room_keys/version/{{version}}",
    f"POST {CS}/login r0 v1",
    "GET /a/{x}/c",
    "GET /a/b/{y}",
    "PUT /a/b/c",
    "GET /d/e/{y}/f",
    "GET /d/{x}/{z}/g",
)


@pytest.mark.parametrize(
    ("method", "path", "template", "args"),
    [
        ("GET", "/pushrules/", "/pushrules/", {}),
        ("GET", "/pushrules", "/pushrules/", {}),
        (
            "GET",
            "/pushrules/global/content/a%2Fb/enabled",
            "/pushrules/global/{kind}/{ruleId}/enabled",
            {"kind": "content", "ruleId": "a/b"},
        ),
        ("GET", "/rooms/!r:x/state", "/rooms/{roomId}/state", {"roomId": "!r:x"}),
        (
            "PUT",
            "/rooms/%21r%3Ax/state/m.room.member/%40a%3Ax",
            "/rooms/{roomId}/state/{eventType}/{stateKey}",
            {"roomId": "!r:x", "eventType": "m.room.member", "stateKey": "@a:x"},
        ),
        (
            "PUT",
            "/rooms/r/state/m.room.name",
            "/rooms/{roomId}/state/{eventType}/{stateKey}",
            {"roomId": "r", "eventType": "m.room.name"},
        ),
        (
            "PUT",
            "/rooms/r/state/m.room.name/",
            "/rooms/{roomId}/state/{eventType}/{stateKey}",
            {"roomId": "r", "eventType": "m.room.name"},
        ),
        (
            "GET",
            "/profile/%40%C3%A4%3Ax/displayname",
            "/profile/{userId}/{keyName}",
            {"userId": "@ä:x", "keyName": "displayname"},
        ),
        ("GET", "/room_keys/version", "/room_keys/version", {}),
        ("GET", "/room_keys/version/2", "/room_keys/version/{version}", {"version": "2"}),
        ("GET", "/p%72ofile/x", "/profile/{userId}", {"userId": "x"}),
        ("HEAD", "/profile/x", "/profile/{userId}", {"userId": "x"}),
        ("POST", "/login", "/login", {}),
    ],
)
def test_addresses_find_their_route(method: str, path: str, template: str, args: dict[str, str]) -> None:
    assert found(TABLE, method, CS + path) == (CS + template, args)


def test_other_versions_of_a_path() -> None:
    for version in ("v3", "r0", "v1"):
        assert found(TABLE, "POST", f"/_matrix/client/{version}/login") == (f"{CS}/login", {})
    early = "/_matrix/client/unstable/org.example/state/{type}"
    forms = table(f"GET {CS}/state/{{type}}/{{key}} r0 {CS}/state/{{type}} {early}")
    for path in (f"{CS}/state/a", "/_matrix/client/r0/state/a", "/_matrix/client/unstable/org.example/state/a"):
        assert found(forms, "GET", path) == (f"{CS}/state/{{type}}/{{key}}", {"type": "a"})
    assert len(forms.routes[0].paths) == 5
    with pytest.raises(ValueError, match="no version"):
        route("GET", "/health", auth=Auth.NONE, also=["r0"])


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("GET", "/a/b/c", "/a/b/{y}"),
        ("PUT", "/a/b/c", "/a/b/c"),
        ("GET", "/a/x/c", "/a/{x}/c"),
        ("GET", "/a/b/z", "/a/b/{y}"),
    ],
)
def test_the_more_literal_route_wins_among_those_with_the_method(method: str, path: str, template: str) -> None:
    assert found(TABLE, method, path)[0] == template


def test_a_way_that_led_nowhere_leaves_nothing_behind() -> None:
    assert found(TABLE, "GET", "/d/e/1/g") == ("/d/{x}/{z}/g", {"x": "e", "z": "1"})


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "/x",
        CS,
        f"{CS}/",
        f"{CS}/profile/",
        f"{CS}/profile//displayname",
        f"{CS}/rooms//state",
        f"{CS}/profile/a/b/c",
        f"{CS}/profile/a%2Fb/c/d",
        f"{CS}//login",
        f"{CS}/login/",
        f"{CS}/LOGIN",
        f"{CS}/{{roomId}}/x",
    ],
)
def test_there_is_nothing_elsewhere(path: str) -> None:
    with pytest.raises(Unrecognized) as refusal:
        TABLE.match("GET", path)
    assert refusal.value.status == 404
    assert TABLE.methods(path) == set()


def test_the_method_must_be_one_of_those_there_are() -> None:
    with pytest.raises(MethodNotAllowed) as refusal:
        TABLE.match("DELETE", f"{CS}/profile/x")
    assert (refusal.value.status, refusal.value.errcode) == (405, "M_UNRECOGNIZED")
    assert TABLE.methods(f"{CS}/profile/x") == {"GET", "HEAD"}
    assert TABLE.methods("/a/b/c") == {"GET", "HEAD", "PUT"}
    assert TABLE.methods(f"{CS}/login") == {"POST"}


def test_a_path_must_be_text() -> None:
    for path in (f"{CS}/profile/%ff", f"{CS}/profile/%00"):
        with pytest.raises(InvalidParam):
            TABLE.match("GET", path)


@given(
    st.text(min_size=1).filter(lambda text: "\0" not in text), st.text(min_size=1).filter(lambda text: "\0" not in text)
)
def test_any_identifier_comes_through(user_id: str, key: str) -> None:
    path = f"{CS}/profile/{quote(user_id, safe='')}/{quote(key, safe='')}"
    assert found(TABLE, "GET", path) == (f"{CS}/profile/{{userId}}/{{keyName}}", {"userId": user_id, "keyName": key})


def test_a_route_is_declared_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        table("GET /a/{x}", "GET /a/{y}")
    with pytest.raises(ValueError, match="twice"):
        table("GET /a/{x}/{x}")
    with pytest.raises(ValueError, match="slash"):
        Table([*declared(stage.hello)[:0], *_with_path("a")])


def _with_path(path: str) -> list[Route[Any]]:
    @route("GET", path, auth=Auth.NONE)
    async def endpoint(server: Any, request: Request) -> dict[str, Any]:
        return {}

    return declared(endpoint)


def test_the_routes_of_modules_are_those_declared_in_them() -> None:
    importer = ModuleType("importer")
    importer.hello = stage.hello  # type: ignore[attr-defined]
    assert Table.of(importer).routes == ()
    assert set(Table.of(sys.modules[stage.__name__]).routes) == set(declared(*stage.ENDPOINTS))


def test_a_listener_serves_a_part() -> None:
    whole = Table[stage.Props](declared(*stage.ENDPOINTS))
    part = whole.serving([Resource.FEDERATION])
    assert {made.path for made in part.routes} == {"/_matrix/federation/v1/version", "/health"}
    with pytest.raises(Unrecognized):
        part.match("GET", f"{CS}/sync")


@pytest.mark.parametrize(
    ("path", "resource", "shared"),
    [
        (f"{CS}/sync", Resource.CLIENT, True),
        ("/_matrix/media/v3/upload", Resource.CLIENT, True),
        ("/.well-known/matrix/client", Resource.CLIENT, True),
        ("/.well-known/matrix/server", Resource.FEDERATION, True),
        ("/_matrix/federation/v1/send/{txnId}", Resource.FEDERATION, True),
        ("/_matrix/key/v2/server", Resource.FEDERATION, True),
        ("/_synapse/admin/v1/register", Resource.CLIENT, True),
        ("/_domicile/passport", Resource.CONSOLE, False),
        ("/metrics", Resource.METRICS, False),
        ("/health", Resource.HEALTH, False),
        ("/", Resource.CONSOLE, False),
    ],
)
def test_where_a_path_belongs(path: str, resource: Resource, shared: bool) -> None:
    (made,) = _with_path(path)
    assert (made.resource, made.resource.shared) == (resource, shared)


def test_defaults() -> None:
    @route("GET", "/x", auth=Auth.NONE)
    @route("POST", "/x", auth=Auth.USER)
    @route("PUT", "/x", auth=Auth.SIGNED, body=7, limit=Limit.NONE)
    @route("DELETE", "/x", auth=Auth.SIGNED)
    async def endpoint(server: Any, request: Request) -> dict[str, Any]:
        return {}

    made = {one.method: (one.body, one.limit) for one in declared(endpoint)}
    assert made == {
        "GET": (SMALL_BODY, Limit.REQUEST),
        "POST": (None, Limit.REQUEST),
        "PUT": (7, Limit.NONE),
        "DELETE": (None, Limit.FEDERATION),
    }
