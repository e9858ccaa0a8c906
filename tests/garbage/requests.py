"""Requests to a route of which something fits and something does not: path, query, body, token."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote, unquote

from PIL import Image

from homeserver.control.commands import COMMANDS
from homeserver.endpoints.administration import administer
from homeserver.protocol.roles import Role
from homeserver.web.routes import Auth, Route
from tests import openapi
from tests.garbage.values import BROKEN, LONG, NESTED, SCALARS, Known, Values, encoded, fresh, places
from tests.openapi import Operation
from tests.rooms.play import ciphertext

RAW_SEGMENTS = (
    "%FF", "%00", "a%00b", "%2F", "..%2F..%2Fetc%2Fpasswd", "..", ".", "%2e%2e", "%", "%zz", "%C0%AF", "%ED%A0%80",
    "%0A", "a%0D%0ASet-Cookie:b", "+", "%20", "%F0%9F%92%A5", ";a=b", "%3F", "%23", "~~", "%E2%80%AE", "%25", "C:%5C",
    "\\", "*", "", LONG, "%F0%9F%92%A5" * 300,
)  # fmt: skip
"""Segments as they may come in an address."""

NUMBERS = (
    "0",
    "1",
    "-1",
    "1.5",
    "1e3",
    "99999999999",
    "9" * 18,
    "9" * 400,
    "-" + "9" * 30,
    "0x10",
    "٣",
    " 1",
    "1_0",
    "",
)
RAW_QUERIES = ("x=%FF", "&&&", "=", "a=%00", "%", "limit=%FF", "?", LONG, "from=%FF", "%FF=1")
CONTENT_TYPES = (
    "text/plain",
    "image/png",
    "",
    "é",
    'a/b; c="d"',
    "x" * 300,
    "text/html\u00a0",
    "application/x-y;charset=\xff",
)

STATE = tuple(name for name in openapi.document()["events"] if name.startswith(("m.room.", "m.space.", "m.policy.")))
"""Types of events whose content the specification describes."""
ACCOUNT_DATA = (
    "m.direct", "m.ignored_user_list", "m.push_rules", "m.fully_read", "m.tag", "org.example.x", "m.identity_server",
    "m.secret_storage.default_key", "m.marked_unread", "m.accepted_terms", "m.invite_permission_config",
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """A request. ``who`` says whose token it brings; what it says of "me" is always mallory's."""

    who: str
    method: str
    target: str
    body: bytes = b""
    content_type: str = openapi.JSON

    def __repr__(self) -> str:
        body = self.body if len(self.body) < 3000 else self.body[:3000] + b"..."
        return f"<{self.who}: {self.method} {self.target[:600]} {body!r} {self.content_type!r}>"


def is_administration(route: Route[Any]) -> bool:
    """Whether it is for those who administer the server."""
    return route.auth is Auth.ADMIN or route.endpoint is administer


def spares_others(ask: Ask, known: Known) -> bool:
    """Whether a request names nobody whom the world needs: an administrator may well close their account."""
    target = unquote(ask.target)
    return not any(name in target for name in (known.alice, known.dora, known.trudy))


def make(random: Random, route: Route[Any], known: Known) -> Ask:
    """A request to the route, by any of its paths. Mostly one thing is wrong with it, sometimes two, sometimes none."""
    operation = openapi.operation(route.method, route.path)
    taking = [name for name, takes in (("path", "{" in route.path), ("query", bool(_queries(operation)))) if takes]
    if route.method in ("POST", "PUT", "DELETE"):
        taking += ["body"] * 4
    if route.auth is not Auth.NONE:
        taking.append("who")
    wrong = {random.choice([*taking * 3, "extra"]) for _ in range(random.choice((0, 1, 1, 1, 1, 2)))}
    values = Values(random, known)
    event_type = random.choice(STATE)
    target = _path(values, route, event_type, "path" in wrong)
    query = _query(values, operation, "query" in wrong)
    who = "grace" if is_administration(route) else random.choice(("mallory", "mallory", "mallory", "trudy"))
    if "who" in wrong:
        who = random.choice(("trudy", "trudy", "nobody", "expired", "gone", "junk"))
    body = _body(values, route, operation, event_type, "body" in wrong)
    ask = Ask(who, route.method, f"{target}?{query}" if query else target, body)
    return _with_extra(random, ask) if "extra" in wrong else ask


def _with_extra(random: Random, ask: Ask) -> Ask:
    """A request with something that has nothing to do with its route."""
    extra = random.choice(("method", "content type", "query", "body"))
    if extra == "method":
        return Ask(ask.who, random.choice(("HEAD", "OPTIONS", "PATCH", "DELETE", "GET")), ask.target, ask.body)
    if extra == "content type":
        return Ask(ask.who, ask.method, ask.target, ask.body, random.choice(CONTENT_TYPES))
    if extra == "query":
        separator = "&" if "?" in ask.target else "?"
        return Ask(ask.who, ask.method, ask.target + separator + random.choice(RAW_QUERIES), ask.body)
    return Ask(ask.who, ask.method, ask.target, random.choice(BROKEN))


def one_fault(random: Random, route: Route[Any], known: Known) -> list[Ask]:
    """Requests of which one thing is wrong, and everything else is as it should be: each thing in many ways."""
    operation = openapi.operation(route.method, route.path)
    values = Values(random, known, whole=True)
    event_type = random.choice(STATE)
    who = "grace" if is_administration(route) else "mallory"
    fields = {each["name"]: _argument(values, each["name"], each["schema"]) for each in _queries(operation)}
    path, query = _path(values, route, event_type, False), _joined(fields.items())
    bodies = _bodies(values, route, operation, event_type)
    right = encoded(bodies[0]) if bodies else b""
    asked = [Ask(each, route.method, _target(path, query), right) for each in WHO] if who == "mallory" else []
    at = route.path.split("/")[: len(path.split("/"))]  # some forms of a path are shorter
    for number, part in enumerate(at):
        if part.startswith("{"):
            strings = [quote(text, safe="", errors="surrogatepass") for text in values.strings()]
            for wrong in (*RAW_SEGMENTS, *strings):
                filled = path.split("/")[: len(at)]
                filled[number] = wrong
                asked.append(Ask(who, route.method, _target("/".join(filled), query), right))
    for name in fields:
        asked.append(
            Ask(who, route.method, _target(path, _joined((k, v) for k, v in fields.items() if k != name)), right)
        )
        for text in (*NUMBERS, *values.strings()):
            asked.append(Ask(who, route.method, _target(path, _joined({**fields, name: text}.items())), right))
    for body in bodies:
        ways = places(body)[1:]
        for way in ways if len(ways) < 40 else random.sample(ways, 40):
            asked += [
                Ask(who, route.method, _target(path, query), encoded(wrong)) for wrong in _spoiled(values, body, way)
            ]
    if bodies or route.stream:
        asked += [Ask(who, route.method, _target(path, query), wrong) for wrong in (*BROKEN, *PICTURES)]
    return asked


WHO = ("trudy", "nobody", "expired", "gone", "junk")


def _target(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _joined(fields: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{name}={quote(value, safe='', errors='surrogatepass')}" for name, value in fields)


def _spoiled(values: Values, body: Any, way: Sequence[Any]) -> Iterator[Any]:
    """The body with junk of every kind at one place."""
    *outer, last = way
    for junk in (*SCALARS, *NESTED, values.string(), values.string(), values.string(), REMOVED):
        made = copy.deepcopy(body)
        holder = made
        for step in outer:
            holder = holder[step]
        if junk is REMOVED:
            del holder[last]
        else:
            holder[last] = junk
        yield made


REMOVED: Any = object()


# path


def _path(values: Values, route: Route[Any], event_type: str, wrong: bool) -> str:
    random = values.random
    path = random.choice((route.path, route.path, *route.paths))
    filled = path.split("/")
    named = [at for at, part in enumerate(filled) if part.startswith("{")]
    spoiled = random.choice(named) if wrong and named else None
    for at in named:
        if at != spoiled:
            filled[at] = quote(_segment(values, route, filled[at].strip("{}"), event_type), safe="")
        elif random.random() < 0.4:
            filled[at] = random.choice(RAW_SEGMENTS)
        else:
            filled[at] = quote(values.string(), safe="", errors="surrogatepass")
    return "/".join(filled)


def _segment(values: Values, route: Route[Any], name: str, event_type: str) -> str:
    """What fits a named segment."""
    known, random = values.known, values.random
    state_key = random.choice((known.me, known.alice, known.trudy)) if event_type == "m.room.member" else ""
    fits: dict[str, tuple[str, ...]] = {
        "roomId": (known.room,) * 5 + (known.house,), "roomIdOrAlias": (known.room, known.alias, known.house),
        "roomAlias": (known.alias, f"#{fresh()}:{known.server}"), "userId": (known.me,) * 4 + (known.alice,),
        "eventId": (known.event,) * 3 + (known.secret,), "deviceId": (known.device,), "serverName": (known.server,),
        "mediaId": (known.media,) * 2 + (known.pending,), "filterId": (known.filter,), "version": (known.backup,),
        "txnId": (fresh(), "again"), "sessionId": ("A" * 43,), "stateKey": (state_key,),
        "tag": ("m.favourite", "u.work"), "command": tuple(COMMANDS), "type": ACCOUNT_DATA, "fileName": ("file.png",),
        "kind": ("override", "override", "room", "sender", "content", "underride"),
        "ruleId": (".m.rule.master", "org.example.rule", known.room, known.me),
        "keyName": ("displayname", "avatar_url", "m.tz", "org.example.field"),
        "receiptType": ("m.read", "m.read.private", "m.fully_read"),
        "eventType": ("m.room.encrypted",) * 3 + ("m.reaction", event_type),
        "node": ("tehran", "paris"), "jurisdiction": ("IR", "FR"), "reportId": ("1",), "role": tuple(map(str, Role)),
    }  # fmt: skip
    if "{stateKey}" in route.path and name == "eventType":
        return event_type
    if route.endpoint is administer and name == "userId":
        return known.me  # and of nobody else is an account deactivated
    return random.choice(fits.get(name, ("x",)))


# query


def _queries(operation: Operation | None) -> list[dict[str, Any]]:
    return [] if operation is None else operation.parameters("query")


def _query(values: Values, operation: Operation | None, wrong: bool) -> str:
    random = values.random
    parameters = [each for each in _queries(operation) if each.get("required") or random.random() < 0.35]
    if wrong and not parameters:
        parameters = _queries(operation)
    spoiled = random.choice(parameters)["name"] if wrong and parameters else None
    fields = []
    for parameter in parameters:
        name = parameter["name"]
        if name != spoiled:
            fields.append((name, _argument(values, name, parameter["schema"])))
            continue
        how = random.choice(("junk", "junk", "number", "missing", "twice", "filter" if name == "filter" else "junk"))
        if how == "filter":
            fields.append(
                (name, values.damaged(values.mutated(_filter(values, parameter["schema"]))).decode("utf-8", "replace"))
            )
        elif how == "twice":
            fields += [(name, values.string()), (name, _argument(values, name, parameter["schema"]))]
        elif how != "missing":
            fields.append((name, values.string() if how == "junk" else random.choice(NUMBERS)))
    return _joined(fields)


def _argument(values: Values, name: str, schema: dict[str, Any]) -> str:
    """What fits a parameter."""
    if name == "filter":
        made = values.mutated(_filter(values, schema))
        return values.known.filter if values.random.random() < 0.3 else encoded(made).decode()
    fits = values.fitting(schema, name)
    return fits if isinstance(fits, str) else json.dumps(fits)


def _filter(values: Values, schema: dict[str, Any]) -> Any:
    kind = "sync_filter" if str(schema.get("example", "")).startswith("66") else "room_event_filter"
    return values.fitting(openapi.document()["schemas"][f"api_client_server_definitions_{kind}"])


# body


def _body(values: Values, route: Route[Any], operation: Operation | None, event_type: str, wrong: bool) -> bytes:
    random = values.random
    if route.stream:
        return random.choice((*PICTURES, *BROKEN, random.randbytes(random.randrange(2000))))
    bodies = _bodies(values, route, operation, event_type)
    if not bodies:
        return b""
    value = random.choice(bodies)
    if not wrong:
        return encoded(value)
    return values.damaged(value) if random.random() < 0.2 else encoded(values.mutated(value))


def _bodies(values: Values, route: Route[Any], operation: Operation | None, event_type: str) -> list[Any]:
    """Bodies that fit; none where none is looked at."""
    if route.method == "GET" or route.stream:
        return []
    if "{stateKey}" in route.path:
        return [values.fitting(openapi.document()["events"].get(event_type, {"type": "object"}))]
    bodies = list(_granted(values.known, route.path if operation is None else operation.id))
    if operation is not None and operation.body is not None:
        bodies.append(values.fitting(operation.body))
    return bodies or [{}]


def _granted(known: Known, operation: str) -> tuple[dict[str, Any], ...]:
    """Bodies that are granted as they are, by operationId, or by path where the specification knows none."""
    name, password = fresh(), known.password
    keys, identity = known.keys, known.identity
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": known.me}, "password": password}
    push = {
        "app_display_name": "App", "app_id": "org.example", "data": {"url": "https://push.example/_matrix/push/v1/notify"},
        "device_display_name": "Phone", "kind": "http", "lang": "en", "pushkey": name,
    }  # fmt: skip
    conditions = [
        {"kind": "event_match", "key": "content.body", "pattern": "a*b?"},
        {"kind": "room_member_count", "is": ">=2"},
        {"kind": "event_property_contains", "key": "content.x", "value": 1},
    ]
    session = {"first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": {"ciphertext": "x"}}
    backup = {
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": {"public_key": "A" * 43, "signatures": {}},
    }
    made: dict[str, tuple[dict[str, Any], ...]] = {
        "login": (login, {**login, "refresh_token": True, "device_id": known.device}),
        "register": ({"username": name, "password": password, "auth": {"type": "m.login.dummy"}},),
        "changePassword": ({"new_password": password, "logout_devices": False, "auth": known.auth},),
        "deactivateAccount": ({"auth": known.auth, "erase": True},),
        "deleteDevice": ({"auth": known.auth},),
        "deleteDevices": ({"auth": known.auth, "devices": [known.device, "X"]},),
        "postPusher": (push, {"app_id": "org.example", "pushkey": name, "kind": None}),
        "createRoom": (
            {"preset": "private_chat", "name": "x", "invite": [known.alice, known.trudy], "room_version": "12"},
            {"preset": "public_chat", "room_alias_name": name, "topic": "x", "visibility": "public"},
            {"initial_state": [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]},
            {"power_level_content_override": {"users": {known.me: 100}}, "room_version": "10"},
            {"creation_content": {"m.federate": False, "type": "m.space"}, "is_direct": True},
            *({"room_version": str(number)} for number in range(3, 13)),
        ),
        "sendMessage": (
            ciphertext("x"),
            ciphertext("x", {"rel_type": "m.thread", "event_id": known.event, "is_falling_back": True}),
            ciphertext("x", {"rel_type": "m.replace", "event_id": known.event}),
            {"m.relates_to": {"rel_type": "m.annotation", "event_id": known.event, "key": "x"}},
        ),
        "setPushRule": (
            {"actions": ["notify"], "pattern": "x*y"}, {"actions": [{"set_tweak": "sound", "value": "default"}]},
            {"actions": ["notify", {"set_tweak": "highlight"}], "conditions": conditions},
        ),
        "setPushRuleActions": ({"actions": ["notify", {"set_tweak": "sound", "value": "x"}]},),
        "sendToDevice": ({"messages": {known.alice: {"*": {"a": 1}}, known.trudy: {known.device: {"b": []}}}},),
        "defineFilter": (
            {
                "room": {"timeline": {"limit": 5, "lazy_load_members": True, "types": ["m.*"], "not_types": ["*"]},
                         "include_leave": True, "rooms": [known.room], "state": {"senders": [known.me]}},
                "event_fields": ["content.body", "type"], "event_format": "federation", "presence": {"limit": 0},
            },
        ),
        "uploadKeys": (
            {"device_keys": keys.device_keys()}, {"one_time_keys": keys.one_time_keys(name)},
            {"fallback_keys": keys.one_time_keys(name, fallback=True), "one_time_keys": keys.one_time_keys(name + "o")},
        ),
        "uploadCrossSigningKeys": ({**identity.upload(), "auth": known.auth}, identity.upload()),
        "uploadCrossSigningSignatures": (
            {known.me: {known.device: identity.by(identity.self_signing, keys.device_keys())}},
            {known.me: {identity.master.verify_key.base64: keys.sign(identity.master_key())}},
        ),
        "queryKeys": ({"device_keys": {known.me: [], known.alice: [known.device], known.trudy: []}, "timeout": 10},),
        "claimKeys": ({"one_time_keys": {known.me: {known.device: "signed_curve25519"}}},),
        "postRoomKeysVersion": (backup,), "putRoomKeysVersion": ({**backup, "version": known.backup},),
        "putRoomKeys": ({"rooms": {known.room: {"sessions": {"A" * 43: session}}}},),
        "putRoomKeysByRoomId": ({"sessions": {"A" * 43: session}},), "putRoomKeyBySessionId": (session,),
        "/_synapse/admin/v1/register": (
            {"nonce": name, "username": name, "password": password, "mac": "00" * 20, "admin": False},
        ),
        "/_domicile/v1/users": ({"localpart": name, "password": password, "node": "tehran", "phone": "+982112345678"},),
        "/_domicile/v1/users/{userId}/password": ({"password": password},),
        "/_domicile/v1/nodes/{node}/backup": ({"to": name},),
        "/_domicile/v1/isolations/{jurisdiction}": ({"reason": "x"},),
        "/_domicile/v1/residency/moves": ({"user": known.me, "to": "paris", "dry_run": True, "window": "01:00-02:00"},),
        "/_domicile/v1/residency/moves/{userId}/stop": ({"forget": True},),
        "/_domicile/v1/residency/plan": ({"text": "format = 1", "file": "x"}, {"restores": 1}),
        "/_domicile/v1/residency/edit": ({"edits": [{"path": ["flows"], "append": {"from": "IR", "to": ["FR"]}}]},),
        "/_domicile/v1/residency/moves/rooms": ({"room": known.house, "to": "paris", "dry_run": True},),
        "/_domicile/v1/residency/apply": ({"plan": "0" * 64, "text": "format = 1"}, {"plan": "0" * 64, "restores": 1}),
        "/_domicile/v1/residency/approvals": (
            {"plan": "0" * 64, "name": "x", "key": "A" * 43, "signature": "A" * 86},
        ),
        "/_domicile/v1/control/{command}": (
            {"localpart": name, "password": password, "user": known.me, "node": "tehran", "phone": "+982112345678"},
        ),
    }  # fmt: skip
    return made.get(operation, ())


def _picture(kind: str) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(made, kind)
    return made.getvalue()


PNG = _picture("PNG")
PICTURES = (
    PNG, PNG, PNG[:40], PNG[:-20], PNG + b"x" * 100, _picture("JPEG"), _picture("GIF"), _picture("WEBP")[:200],
    PNG[:16] + b"\x7f\xff\xff\xff\x7f\xff\xff\xff" + PNG[24:], b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"GIF89a\xff\xff\xff\xff\x80\0\0", b"\xff\xd8\xff\xe0" + b"\0" * 100, b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"MM\0*\0\0\0\x08" + b"\xff" * 200, b"\0\0\1\0" + b"\xff" * 100,
)  # fmt: skip
"""Pictures, and what begins like one."""
