"""What endpoints see of requests, and what becomes of what they answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.errors import (
    BadJson,
    InvalidParam,
    LimitExceeded,
    MissingParam,
    NotFound,
    NotJson,
    Refusal,
)
from homeserver.web.heads import Heads
from homeserver.web.incoming import Incoming
from homeserver.web.messages import (
    DEEPEST,
    LARGE,
    Query,
    Request,
    Response,
    json_response,
    percent_decoded,
    redirect,
    refused,
    spliced,
)
from tests.support import aio
from tests.web.stage import caller


async def arrived(body: bytes) -> Request:
    request = Request("POST", "/x", {}, "", Incoming.of(body))
    await request.read()
    return request


def test_a_query_is_decoded_and_keeps_repeated_names() -> None:
    query = Query("a=1&b=%C3%A4+x&a=2&empty=&bare&=odd&&%61=3")
    assert query.get("a") == "1"
    assert query.all("a") == ["1", "2", "3"]
    assert query.get("b") == "ä x"
    assert (query.get("empty"), query.get("bare"), query.get("")) == ("", "", "odd")
    assert query.get("c") is None
    assert query.get("c", "z") == "z"
    assert query.all("c") == []
    assert "a" in query
    assert "c" not in query
    with pytest.raises(MissingParam):
        query.require("c")


@given(st.lists(st.tuples(st.text(), st.text())))
def test_what_a_browser_writes_is_what_is_read(fields: list[tuple[str, str]]) -> None:
    from urllib.parse import urlencode

    fields = [(name, value) for name, value in fields if "\0" not in name + value]
    query = Query(urlencode(fields))
    for name, _ in fields:
        assert query.all(name) == [value for other, value in fields if other == name]


def test_numbers_and_flags_are_what_they_must_be() -> None:
    query = Query("n=12&low=-3&big=999999999999999999&t=true&f=false&x=1e3&y=%D9%A3&z=1_0&huge=" + "9" * 5000)
    assert query.integer("n", 10) == 12
    assert query.integer("missing", 10) == 10
    assert query.integer("missing", None) is None
    assert query.integer("big", 10, high=100) == 100
    assert query.integer("low", 10) == -3
    for name, low in (("low", 0), ("x", None), ("y", None), ("z", None), ("huge", None), ("t", None)):
        with pytest.raises(InvalidParam):
            query.integer(name, 10, low=low)
    assert query.boolean("t") is True
    assert query.boolean("f", default=True) is False
    assert query.boolean("missing", default=True) is True
    with pytest.raises(InvalidParam):
        query.boolean("n")
    assert query.choice("t", ("true", "maybe"), "maybe") == "true"
    assert query.choice("missing", ("true", "maybe"), "maybe") == "maybe"
    with pytest.raises(InvalidParam):
        query.choice("f", ("true", "maybe"), "maybe")


@pytest.mark.parametrize("text", ["%ff", "%c3", "%ed%a0%80", "a%00b", "\0"])
def test_what_is_not_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        percent_decoded(text)
    with pytest.raises(InvalidParam):
        Query(f"a={text}")


def test_a_percent_sign_alone_stands_for_itself() -> None:
    assert percent_decoded("100%") == "100%"
    assert percent_decoded("%zz%2F") == "%zz/"


@aio
async def test_json_is_an_object_or_refused() -> None:
    assert (await arrived(b'{"a": [1, "\xc3\xa4"]}')).json() == {"a": [1, "ä"]}
    for body in (b"", b"{", b"{'a': 1}", b"\xff", b'{"a": "\xff"}', b'{"a": NaN}', b'{"\\ud800": 1}', b"{} {}"):
        with pytest.raises(NotJson):
            (await arrived(body)).json()
    for body in (b"[]", b"1", b'"x"', b"null", b"true"):
        with pytest.raises(BadJson):
            (await arrived(body)).json()


@aio
async def test_a_bomb_of_brackets_is_not_json() -> None:
    for depth in (2_000, 1_000_000):
        for opening in (b"[", b'{"a":'):
            with pytest.raises(NotJson):
                (await arrived(opening * depth)).json()
        with pytest.raises(NotJson):
            (await arrived(b'{"a":' + b"[" * depth + b"]" * depth + b"}")).json()


@aio
async def test_how_deep_a_body_may_be() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        depth = DEEPEST - 1  # the body itself is one more
        assert orjson.dumps((await arrived(b'{"a":' + opening * depth + b"1" + closing * depth + b"}")).json())
        for depth in (DEEPEST, 1000):
            with pytest.raises(BadJson):
                (await arrived(b'{"a":' + opening * depth + b"1" + closing * depth + b"}")).json()
        padded = b'{"a":' + opening * DEEPEST + b'"' + b"x" * LARGE + b'"' + closing * DEEPEST + b"}"
        with pytest.raises(BadJson):
            (await arrived(padded)).json()
    wide = b'{"a":[' + b"[{}]," * 1000 + b"1]}"
    assert len((await arrived(wide)).json()["a"]) == 1001


@aio
async def test_no_body_can_stand_for_an_empty_object() -> None:
    assert (await arrived(b"")).json(required=False) == {}
    assert (await arrived(b'{"a":1}')).json(required=False) == {"a": 1}
    with pytest.raises(NotJson):
        (await arrived(b" ")).json(required=False)


@pytest.mark.parametrize(
    ("headers", "target", "token"),
    [
        ({b"authorization": b"Bearer abc"}, "/", "abc"),
        ({b"authorization": b"bearer  abc "}, "/", "abc"),
        ({b"authorization": b"Basic abc"}, "/", None),
        ({b"authorization": b"Basic abc"}, "/?access_token=xyz", None),
        ({b"authorization": b"Bearer "}, "/", None),
        ({}, "/?access_token=a%2Fc", "a/c"),
        ({}, "/?not_access_token=abc", None),
        ({}, "/?access_token=", None),
        ({b"authorization": b"Bearer abc"}, "/?access_token=xyz", "abc"),
        ({}, "/", None),
    ],
)
def test_where_a_token_is_found(headers: dict[bytes, bytes], target: str, token: str | None) -> None:
    assert Request("GET", target, headers).token() == token


def test_a_request_shows_nothing_of_the_client() -> None:
    request = Request("GET", "/x/@alice?access_token=secret", {b"authorization": b"Bearer secret"}, "192.0.2.7")
    request.template = "/x/{userId}"
    assert repr(request) == "<Request GET /x/{userId}>"
    assert request.path == "/x/@alice"
    assert request.target == "/x/@alice?access_token=secret"


def test_headers_are_found_in_any_case() -> None:
    request = Request("GET", "/", {b"x-name": b"caf\xe9"})
    assert request.header("X-Name") == "café"
    assert request.header("other") is None


def test_what_a_route_does_not_provide_cannot_be_asked_for() -> None:
    request = Request("GET", "/", {})
    for name in ("caller", "origin", "body"):
        with pytest.raises(LookupError):
            getattr(request, name)
    assert request.caller_or_none is None
    request.caller = caller()
    assert request.caller.user_id == "@alice:domicile.test"


def test_answers() -> None:
    assert json_response({"a": 1}, 201).body == b'{"a":1}'
    assert spliced(b'{"a":', b"1}").body == (b'{"a":', b"1}")
    assert redirect("https://example.org/").headers == (("Location", "https://example.org/"),)
    answer = refused(NotFound("Not here", **{"org.domicile.reason": "x"}))
    assert (answer.status, answer.body) == (
        404,
        b'{"errcode":"M_NOT_FOUND","error":"Not here","org.domicile.reason":"x"}',
    )


@pytest.mark.parametrize(("milliseconds", "seconds"), [(1, "1"), (1000, "1"), (1001, "2")])
def test_a_client_that_asks_too_often_is_told_when_to_come_back(milliseconds: int, seconds: str) -> None:
    answer = refused(LimitExceeded(milliseconds))
    assert (answer.status, answer.headers) == (429, (("Retry-After", seconds),))


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "\0", "€", "\x7f"])
@pytest.mark.parametrize("place", ["value", "name", "type"])
def test_a_header_cannot_break_an_answer_up(value: str, place: str) -> None:
    headers = {"value": [("X-Test", value)], "name": [(value, "x")], "type": []}[place]
    response = Response(200, b"", headers, content_type=value if place == "type" else "text/plain")
    with pytest.raises(ValueError, match="cannot be sent"):
        Heads(0).head(response, 0, shared=True)


def test_every_refusal_can_be_answered() -> None:
    def classes(root: type[Refusal]) -> list[type[Refusal]]:
        return [root, *(found for child in root.__subclasses__() for found in classes(child))]

    heads = Heads(0)
    for kind in classes(Refusal):
        head = heads.head(Response(kind.status), 2, shared=True)
        phrase: Any = head.split(b"\r\n")[0].split(b" ", 2)
        assert phrase[1] == str(kind.status).encode()
        assert phrase[2], f"{kind.status} has no name"
