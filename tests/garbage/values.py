"""JSON values that fit a schema, or nearly, or not at all; and bytes that are hardly JSON.

All chances come from a `Random` that whoever calls has seeded.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests import openapi
from tests.e2ee.play import Device, Identity

_FRESH = itertools.count()


def fresh() -> str:
    """A name that nothing has yet."""
    return f"r{next(_FRESH)}"


@dataclass
class Known:
    """What exists in the deployment that is attacked. ``room`` has the attacker in it, ``house`` does not."""

    server: str
    password: str
    me: str
    alice: str
    trudy: str
    dora: str
    room: str
    house: str
    event: str
    secret: str
    alias: str
    device: str
    media: str
    pending: str
    batch: str
    filter: str
    backup: str
    refresh: str
    keys: Device
    identity: Identity
    strings: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.strings = [value for value in vars(self).values() if isinstance(value, str)]

    @property
    def auth(self) -> dict[str, Any]:
        """What completes a user-interactive authentication."""
        return {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.me},
            "password": self.password,
        }

    def fitting(self, name: str) -> Sequence[Any]:
        """What a field or parameter of this name may hold."""
        content = f"mxc://{self.server}/{self.media}"
        return {
            "auth": (self.auth,), "room_id": (self.room,), "room_alias_name": (fresh(),), "user": (self.me,),
            "user_id": (self.alice, self.trudy, self.dora, self.me), "username": (fresh(),),
            "password": (self.password,), "event_id": (self.event,), "m.fully_read": (self.event,),
            "m.read": (self.event,), "device_id": (self.device,), "devices": (self.device,), "from": (self.batch,),
            "to": (self.batch,), "since": (self.batch,), "at": (self.batch,), "version": (self.backup,),
            "refresh_token": (self.refresh,), "avatar_url": (content,), "url": (content,), "timeout": ("0", "1000"),
            "timeout_ms": ("0", "1000"), "filter": (self.filter,), "server": (self.server,), "alias": (self.alias,),
            "replacement_room": (self.room,),
        }.get(name, ())  # fmt: skip

    def formatted(self, form: str) -> Sequence[str]:
        """What a string of this format may be."""
        return {
            "mx-user-id": (self.me, self.alice, self.trudy), "mx-room-id": (self.room,), "mx-event-id": (self.event,),
            "mx-room-alias": (self.alias,), "mx-server-name": (self.server,),
            "mx-mxc-uri": (f"mxc://{self.server}/{self.media}",),
        }.get(form, ("x", "some text"))  # fmt: skip

    def matching(self, pattern: str) -> Sequence[str]:
        """Names of properties that match a pattern."""
        sigils = {"^@": (self.me, self.alice, self.trudy), "^!": (self.room, self.house), "^\\$": (self.event,)}
        return sigils.get(pattern, (self.device, self.me, self.room, f"ed25519:{self.device}", "x"))


LONG = "x" * 10_000
STRINGS = (
    "", " ", ".", "..", "../../../etc/passwd", "%2e%2e%2f", "\0", "a\0b", "\ud800", "a\r\nSet-Cookie: b", "\u202e",
    "\ufffe\uffff", "💥" * 70, LONG, "é" * 200, "null", "-1", "0", "1e400", str(2**63), "NaN", "true", "' OR 1=1 --",
    "%", "%s%n{0}{x}", "__class__", "*", "?", "[", "\\", "(" * 300, "a*" * 300, "x" * 256, "x" * 65_000,
    "@", "@:", "@a", "@a:b", "@MALLORY:example.org", "@x:example.org\n", "@" + "l" * 250 + ":example.org",
    "!", "!:", "!unknown:example.org", "!" + "A" * 43, "$", "$unknown", "$" + "e" * 43, "#", "#:",
    "#unknown:example.org", "#a:elsewhere.example", "@a:elsewhere.example", "mxc://", "mxc://example.org/..",
    "mxc://example.org/%2e%2e", "example.org:99999", "[::1]:8448", "1.2.3.4", "m.room.create", "m.room.member",
    "m.room.encryption", "m.login.dummy", "m.login.password", "m.push_rules", "m.fully_read", "__proto__", "\x7f",
    "\x1b[31m", "ﷺ", "ǅ", "ß", "ı", "A", "org.example",
)  # fmt: skip
"""Strings that somebody may not have thought of."""

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, -0.0, 1e308, 2**31, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, 2**63, -(2**63) - 1,
    2**64, 10**400, -(10**400), float("nan"), float("inf"),
)  # fmt: skip
NESTED: tuple[Any, ...] = (
    {}, [], [[]], [{}], {"": ""}, [None], {"a": None}, {"\0": "\0"}, {"\ud800": 1}, {"@a:b": {}}, {"@a:b": 1.5}, [""],
    [1, "a", None], {"a": 2**60}, "<<objects 100>>", "<<objects 260>>", "<<arrays 300>>", "<<objects 900>>",
    list(range(3000)), ["x"] * 3000, {str(number): {} for number in range(300)}, {"a" * 300: "b"},
)  # fmt: skip
DEPTH = re.compile(rb'"<<(objects|arrays) ([0-9]+)>>"')
"""What stands in a value for so many objects or arrays in one another, until it is encoded."""

TEN_THOUSAND_KEYS: dict[str, Any] = {f"org.example.{number}": number for number in range(10_000)}
BROKEN = (
    b"", b"{", b"}", b"[]", b"null", b"1", b'"text"', b"{]", b'{"a":}', b'{"a":1,}', b"{'a':1}", b"\xff\xfe{}",
    b'{"\xff":1}', b'{"a":"\xc3"}', b"\xef\xbb\xbf{}", b'{"a":01}', b'{"a":+1}', b'{"a":1e999}', b'{"a":"\x00"}',
    b'{"a":"\\ud800"}', b'{"a":1}{"b":2}', b"\0", b"[" * 100_000, b'{"a":' * 100_000, b'{"a":"' + b"x" * 60_000,
    b"a=b&c=d", b"<xml/>", json.dumps(TEN_THOUSAND_KEYS).encode(), json.dumps({"body": "x" * 65_536}).encode(),
    json.dumps({"a": list(range(20_000))}).encode(),
)  # fmt: skip
"""Bodies that are no JSON, or no object, or too much of it."""


class Values:
    """Makes values. With ``whole`` those that fit have everything that the schema knows."""

    def __init__(self, random: Random, known: Known, *, whole: bool = False) -> None:
        self.random = random
        self.known = known
        self._whole = whole

    # what fits

    def fitting(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        """A value that a schema describes."""
        random = self.random
        schema = openapi.resolved(schema)
        if known := self.known.fitting(name):
            return copy.deepcopy(random.choice(known))
        for keyword in ("oneOf", "anyOf"):
            if keyword in schema:
                return self.fitting(random.choice(schema[keyword]), name, depth)
        if "enum" in schema or "const" in schema:
            return random.choice(schema.get("enum", [schema.get("const")]))
        if "example" in schema and random.random() < 0.5:
            return copy.deepcopy(schema["example"])
        kind = schema.get("type")
        kind = random.choice(kind) if isinstance(kind, list) else kind
        if kind == "object" or "properties" in schema or "allOf" in schema:
            return self._object(schema, depth)
        if kind == "array":
            return [self.fitting(schema.get("items", {}), "", depth + 1) for _ in range(random.randint(self._whole, 2))]
        plain: dict[Any, Sequence[Any]] = {
            "string": self.known.formatted(schema.get("format", "")), "integer": (0, 1, 50, 100, 5000),
            "number": (0, 0.5, 1), "boolean": (True, False), "null": (None,),
        }  # fmt: skip
        return random.choice(plain.get(kind, ("x", 1, {})))

    def _object(self, schema: Any, depth: int) -> dict[str, Any]:
        random = self.random
        properties, required, matching = _properties(schema)
        made: dict[str, Any] = {}
        if depth > 6:
            return made
        for pattern, each in matching:
            for _ in range(random.randint(self._whole, 2)):
                made[random.choice(self.known.matching(pattern))] = self.fitting(each, "", depth + 1)
        for name, each in properties.items():
            if name in required or self._whole or random.random() < 0.5:
                made[name] = self.fitting(each, name, depth + 1)
        return made

    # what does not

    def string(self) -> str:
        """Any string."""
        return self.random.choice(self.strings())

    def strings(self) -> Sequence[str]:
        """Strings of all kinds."""
        return (*STRINGS, *self.known.strings)

    def junk(self) -> Any:
        """Any value."""
        random = self.random
        return copy.copy(random.choice((random.choice(SCALARS), self.string(), random.choice(NESTED))))

    def mutated(self, value: Any) -> Any:
        """The value with some of its parts replaced, removed, wrapped or added to."""
        random = self.random
        value = [copy.deepcopy(value)]  # so that the whole has a holder, like its parts
        ways = places(value)[1:]
        chosen = random.sample(ways, k=min(len(ways), random.choice((1, 1, 1, 2, 3))))
        for *way, last in sorted(chosen, key=len, reverse=True):  # inner parts first: their way is still there
            holder = value
            for step in way:
                holder = holder[step]
            change = random.choice(("replace", "replace", "replace", "remove", "wrap", "add"))
            part = holder[last]
            if change == "add" and isinstance(part, dict):
                part[self.string()] = self.junk()
            elif change == "add" and isinstance(part, list):
                part.append(self.junk())
            elif change == "remove" and isinstance(holder, dict):
                del holder[last]
            else:
                holder[last] = [part] if change == "wrap" else self.junk()
        return value[0]

    def damaged(self, value: Any) -> bytes:
        """The bytes of the value, with something wrong in them."""
        random = self.random
        body = encoded(value)
        at = random.randint(0, len(body))
        damage = random.choice(("truncated", "utf-8", "nul", "twice", "keys", "doubled", "broken", "broken"))
        if damage == "truncated":
            return body[:at]
        if damage in ("utf-8", "nul"):
            return body[:at] + (b"\xff" if damage == "utf-8" else b"\0") + body[at:]
        if damage == "twice":
            return body + body
        if damage == "keys" and isinstance(value, dict):
            return encoded({**TEN_THOUSAND_KEYS, **value})
        if damage == "doubled" and body[:1] == b"{" and len(body) > 2:
            return body[:-1] + b"," + body[1:]  # each name comes twice
        return random.choice(BROKEN)


def encoded(value: Any) -> bytes:
    """The value as bytes, which are JSON unless it has parts for which there is none."""
    return DEPTH.sub(_nested, json.dumps(value).encode())


def _nested(found: re.Match[bytes]) -> bytes:
    depth = int(found[2])
    return b'{"a":' * depth + b"1" + b"}" * depth if found[1] == b"objects" else b"[" * depth + b"]" * depth


def _properties(schema: Any) -> tuple[dict[str, Any], set[str], list[tuple[str, Any]]]:
    """The properties of an object, the names of those that are required, and schemas for names that match."""
    schema = openapi.resolved(schema)
    properties = dict(schema.get("properties", {}))
    required = set(schema.get("required", ()))
    matching = list(schema.get("patternProperties", {}).items())
    if isinstance(schema.get("additionalProperties"), dict):
        matching.append(("", schema["additionalProperties"]))
    for part in schema.get("allOf", ()):
        more, needed, others = _properties(part)
        properties |= more
        required |= needed
        matching += others
    return properties, required, matching


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each part of a value, itself first."""
    found = [at]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        found += places(part, (*at, key))
    return found
