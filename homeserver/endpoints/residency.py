"""What users can look up of where their data is, and where their rooms are held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.residency import consents, whereabouts
from homeserver.residency.withdrawing import telling
from homeserver.rooms import whereabouts as rooms
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.residency.whereabouts import Stored
    from homeserver.web.messages import Request


def _place(server: Server, code: str) -> dict[str, str]:
    """A jurisdiction, with its name in the policy's words."""
    return {"code": code, "name": server.policy.now.label(code)}


@route("GET", "/_domicile/v1/residency/me", auth=Auth.GUEST, limit=Limit.DIRECTORY, resource=Resource.CLIENT)
async def own_residency(server: Server, request: Request) -> dict[str, Any]:
    """Where the caller's data rests, how much of it is where, which places their rooms reach, what they agreed to."""
    caller, policy = request.caller, server.policy.now
    found = await whereabouts.of_user(server, caller)
    given = await consents.of_user(caller.node, caller.user_nid)
    return {
        "user_id": caller.user_id,
        "node": caller.node.name,
        "jurisdiction": _place(server, caller.node.jurisdiction),
        "pin": None if found.pin is None else found.pin._asdict(),
        "policy_serial": policy.serial,
        "withdrawal": await telling.to_residents(server, caller.node),
        "sealed_sessions": _sealed(server, caller.node.jurisdiction),
        "stored": [_stored(server, each) for each in found.stored],
        "counted_ts": found.counted_ts,
        "rooms": {
            "nodes": [
                {"node": name, "jurisdiction": _place(server, server.nodes[name].jurisdiction), "rooms": number}
                for name, number in found.company.nodes.items()
            ],
            "servers": [
                {"server": name, "jurisdiction": _place(server, policy.jurisdiction_of_server(name)), "rooms": number}
                for name, number in found.company.servers.items()
            ],
        },
        "consents": [
            {
                "from": each.source,
                "to": each.target,
                "classes": list(each.classes),
                "policy_serial": each.policy_serial,
                "language": each.language,
                "shown_sha256": each.shown.hex(),
                "given_ts": each.given_ts,
                "withdrawn_ts": each.withdrawn_ts,
                "holds": consents.holds(server, each),
            }
            for each in given
        ],
    }


def _sealed(server: Server, code: str) -> dict[str, Any] | None:
    """How many people hold shares of what is kept about sessions, how many it takes, and for how long (milliseconds);
    None where nothing is kept."""
    ceiling = server.policy.now.disclosure(code)
    if not ceiling.custodians:
        return None
    kept_ms = server.policy.now.retention(code).sessions.ms
    return {"custodians": len(ceiling.custodians), "threshold": ceiling.threshold, "kept_ms": kept_ms}


def _stored(server: Server, stored: Stored) -> dict[str, Any]:
    there: dict[str, Any] = {
        "node": stored.node,
        "jurisdiction": _place(server, stored.jurisdiction),
        "available": stored.classes is not None,
    }
    if stored.classes is not None:
        there["classes"] = {
            name.value: {"rows": amount.rows, "bytes": amount.size} for name, amount in stored.classes.items()
        }
        there["files"] = {"number": stored.files.number, "bytes": stored.files.size}
    return there


@route("GET", "/_domicile/v1/rooms/{roomId}/residency", auth=Auth.GUEST, resource=Resource.CLIENT)
async def room_residency(server: Server, request: Request) -> dict[str, Any]:
    """Where a room is held that the caller is in, and what each place there gets to see."""
    room_id, policy = request.args["roomId"], server.policy.now
    found = await rooms.of_room(server, request.caller, room_id)
    home = None
    if found.home is not None:
        home = {"node": found.home, "jurisdiction": _place(server, server.nodes[found.home].jurisdiction)}
    return {
        "room_id": room_id,
        "encrypted": found.encrypted,
        "home": home,
        "nodes": [
            {"node": name, "jurisdiction": _place(server, server.nodes[name].jurisdiction), "members": members}
            for name, members in sorted(found.nodes.items())
        ],
        "servers": [
            {"server": name, "jurisdiction": _place(server, policy.jurisdiction_of_server(name)), "members": members}
            for name, members in sorted(found.servers.items())
        ],
        "jurisdictions": [
            {**_place(server, code), "members": members} for code, members in sorted(found.places.items())
        ],
        "leak_budget": [
            {
                "from": leak.source,
                "to": leak.target,
                "classes": [each.value for each in leak.classes],
                "visible": list(leak.visible),
                "sealed": list(leak.sealed),
            }
            for leak in found.leaks
        ],
    }
