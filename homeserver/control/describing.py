"""The OpenAPI document of the admin API, and of what users ask under the same addresses: made of the declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from homeserver.control.declarations import (
    FLAG,
    NUMBER,
    TEXT,
    Kept,
    Schema,
    argument_of,
    listed,
    made_of,
    maybe,
)
from homeserver.control.declared import DECLARED

if TYPE_CHECKING:
    from homeserver.control.declarations import Argument, Declared

PREFIX: Final = "/_domicile/v1"

_PLACE: Final[Schema] = made_of(code=TEXT, name=TEXT)
_OBJECTS: Final[Schema] = listed({"type": "object"})

FOR_USERS: Final[Mapping[tuple[str, str], tuple[str, Schema | str]]] = {
    ("GET", "/residency/me"): (
        "Where the caller's data rests, and which places their rooms reach",
        made_of(
            user_id=TEXT,
            node=TEXT,
            jurisdiction=_PLACE,
            pin=maybe(made_of(how=TEXT, rule=TEXT, ts=NUMBER)),
            policy_serial=NUMBER,
            withdrawal=maybe({"type": "object"}),
            stored=_OBJECTS,
            counted_ts=NUMBER,
            rooms=made_of(nodes=_OBJECTS, servers=_OBJECTS),
            sealed_sessions=maybe({"type": "object"}),
            consents=_OBJECTS,
        ),
    ),
    ("GET", "/rooms/{roomId}/residency"): (
        "Where a room is held that the caller is in, and what each place there gets to see",
        made_of(
            room_id=TEXT,
            encrypted=FLAG,
            home=maybe(made_of(node=TEXT, jurisdiction=_PLACE)),
            nodes=_OBJECTS,
            servers=_OBJECTS,
            jurisdictions=_OBJECTS,
            leak_budget=_OBJECTS,
        ),
    ),
    ("GET", "/residency/export"): ("All that is the caller's on their node", {"type": "object"}),
    ("GET", "/residency/withdrawals"): (
        "The jurisdictions that are being left, and the receipts of those that were",
        made_of(server_name=TEXT, key_id=TEXT, key=TEXT, withdrawals=_OBJECTS),
    ),
    ("GET", "/key-log"): ("The logs of changes of keys, one for each node", {"type": "object"}),
    ("GET", "/key-log/me"): (
        "What proves which leaves of the logs are about the caller, for whoever is to watch over their keys",
        made_of(user_id=TEXT, opening=TEXT),
    ),
    ("POST", "/key-log/proof"): (
        "What the log says of `user_id`, for whoever knows the `opening` of their name; no token is needed",
        {"type": "object"},
    ),
    ("GET", "/key-log/{node}/checkpoint"): (
        "How far a log is, signed (C2SP tlog-checkpoint)",
        "text/plain",
    ),
    ("GET", "/key-log/{node}/tile/{level}/{part1}"): (
        "Hashes or entries of the log of a node (C2SP tlog-tiles); the number of a tile may have more parts",
        "application/octet-stream",
    ),
    ("GET", "/witness"): ("What this deployment signs with as a witness, and how far each log", {"type": "object"}),
    ("POST", "/witness/add-checkpoint"): (
        "Have a checkpoint signed that goes on from the last one of its log (C2SP tlog-witness)",
        "text/plain",
    ),
    ("GET", "/witness/{log}/checkpoint"): (
        "The newest checkpoint of a log that was signed here; the log is named by the SHA-256 of its origin",
        "text/plain",
    ),
    ("GET", "/residency/version"): (
        "Which residency policy is in force, and the key that signed it",
        made_of(
            server_name=TEXT,
            key_id=TEXT,
            key=TEXT,
            version=maybe(made_of(serial=NUMBER, time=NUMBER, text_sha256=TEXT, record_sha256=TEXT)),
        ),
    ),
}
"""What is for users, or anybody: what it answers, or the type of what is no JSON."""

_FOR_ANYBODY: Final = ("/residency/version", "/residency/withdrawals", "/key-log", "/witness")
"""How the paths begin for which no token is needed."""

_ERROR: Final[Schema] = made_of(
    {
        "org.domicile.reason": {"type": "string", "description": "Why, where errcode does not tell it apart."},
        "org.domicile.roles": {
            "type": "array",
            "items": TEXT,
            "description": "With the reason role_needed: the roles of which one is needed.",
        },
    },
    errcode={"type": "string", "description": "An error code of the Matrix specification."},
    error={"type": "string", "description": "What is wrong, in words."},
)


def document(server_name: str, base_url: str, version: str) -> dict[str, Any]:
    """The document of a deployment, as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for command, declared in DECLARED.items():
        if declared.door is not None:
            method, path = declared.door
            paths.setdefault(PREFIX + path, {})[method.lower()] = _operation(command, declared)
    for (method, path), (says, answer) in FOR_USERS.items():
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        paths.setdefault(PREFIX + path, {})[method.lower()] = {
            "operationId": path.strip("/").replace("/", "-").replace("{", "").replace("}", ""),
            "summary": says,
            "tags": ["users"],
            **({"security": []} if path.startswith(_FOR_ANYBODY) and path != "/key-log/me" else {}),
            **({"parameters": [_in("path", name, "", TEXT, True) for name in names]} if names else {}),
            "responses": _responses(answer),
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Domicile at {server_name}",
            "version": version,
            "description": "What administrators ask, each by a role of theirs, and what users ask of residency."
            " Every call that changes something, and every one that is refused, is written down.",
        },
        "servers": [{"url": base_url}],
        "security": [{"access_token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "access_token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The access token of a user: of one with a role, unless it is said otherwise.",
                }
            },
            "schemas": {"Error": _ERROR},
        },
    }


def _operation(command: str, declared: Declared) -> dict[str, Any]:
    method, _ = declared.door or ("", "")
    in_path = {argument_of(segment): segment for segment in declared.segments}
    parameters = []
    fields: list[Argument] = []
    for argument in declared.arguments:
        if argument.name in in_path:
            parameters.append(_in("path", in_path[argument.name], argument.says, argument.schema, True))
        elif method in ("POST", "PUT"):
            fields.append(argument)
        else:
            parameters.append(_in("query", argument.name, argument.says, argument.schema, argument.needed))
    roles = sorted(declared.roles)
    made: dict[str, Any] = {
        "operationId": command,
        "summary": declared.says,
        "description": f"Needs the role {' or '.join(roles)}.",
        "tags": [command.partition("-")[0]],
        "x-domicile-roles": roles,
        "x-domicile-changes": declared.changes,
    }
    if parameters:
        made["parameters"] = parameters
    if fields:
        made["requestBody"] = _body(fields)
    made["responses"] = _responses(declared.answer)
    return made


def _in(place: str, name: str, says: str, schema: Schema, needed: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "description": says, "required": needed, "schema": schema}


def _body(fields: list[Argument]) -> dict[str, Any]:
    properties = {
        each.name: {
            **each.schema,
            "description": each.says,
            **({"writeOnly": True} if each.kept is Kept.NOTHING else {}),
        }
        for each in fields
    }
    needed = [each.name for each in fields if each.needed]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if needed:
        schema["required"] = needed
    return {"required": bool(needed), "content": {"application/json": {"schema": schema}}}


def _responses(answer: Schema | str) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    done = {answer: {}} if isinstance(answer, str) else {"application/json": {"schema": answer}}
    return {
        "200": {"description": "It was done.", "content": done},
        "default": {"description": "It was not.", "content": {"application/json": {"schema": error}}},
    }
