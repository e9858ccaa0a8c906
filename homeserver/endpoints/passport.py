"""The passport, for everybody: signed, for programs, and as a page, in the languages of the places where nodes stand.

The page says nothing that the signed form does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from babel import Locale

from homeserver.endpoints import browsing
from homeserver.pages import languages, places
from homeserver.passport import issuing
from homeserver.protocol import checkpoints, signed_notes
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.pages.languages import Language
    from homeserver.web.messages import Request

PAGE: Final = "/_domicile/passport"
REGISTER: Final = "/_domicile/transparency"
SIGNED: Final = "/_domicile/passport.json"

FIELDS: Final[Mapping[str, str]] = {
    "ip_addresses": "IP addresses",
    "user_agents": "names of apps",
    "last_seen": "when an account was last used",
    "phone_number": "the phone number",
    "email_address": "the e-mail address",
    "registration_time": "when an account was made",
}
"""What can be disclosed to an authority, in words."""


@route("GET", SIGNED, auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def passport(server: Server, request: Request) -> Response:
    """What this deployment says of itself, signed by the server's key."""
    _, raw = await issuing.current(server)
    return Response(200, raw, (("Cache-Control", f"public, max-age={int(issuing.KEPT)}"),))


@browsing.page("GET", PAGE, limit=Limit.REQUEST)
async def passport_page(server: Server, request: Request) -> Response:
    """The same, for people. ``language`` in the query: which one, whatever the browser prefers."""
    said, _ = await issuing.current(server)
    spoken = languages.choose(request.query.get("language"), [browsing.language_of(server, request).code])
    version = said["policy"]["version"]
    return browsing.plain(
        server,
        spoken,
        "passport.html",
        said=said,
        when=spoken.day(said["time"]),
        since="" if version is None else spoken.day(version["time"]),
        jurisdictions=[_jurisdiction(server, spoken, each, said["nodes"]) for each in said["jurisdictions"]],
        logs=[_log(spoken, each["key_log"]) for each in said["nodes"]],
        registers=[_register(spoken, each) for each in said["nodes"] if each["register"] is not None],
        witnesses=[
            {"name": each["name"], "place": places.label(server.policy.now, spoken, each["jurisdiction"])}
            for each in said["witnesses"]
        ],
        register=REGISTER,
        signed=SIGNED,
        others=[_other(code) for code in _languages(said) if code != spoken.code],
        action=PAGE,
    )


def _jurisdiction(
    server: Server, spoken: Language, said: Mapping[str, Any], nodes: list[Mapping[str, Any]]
) -> dict[str, Any]:
    disclosed = said["disclosure"]
    return {
        "place": places.label(server.policy.now, spoken, said["code"]),
        "nodes": [each["name"] for each in nodes if each["jurisdiction"] == said["code"]],
        "law": said["law"],
        "representative": said["representative"],
        "isolated": said["isolated"],
        "fields": [spoken.text(FIELDS[each]) for each in disclosed["fields"]],
        "approvals": spoken.number(disclosed["approvals"]),
    }


def _log(spoken: Language, log: Mapping[str, Any]) -> dict[str, Any]:
    size = None
    if log["checkpoint"] is not None:
        size = checkpoints.read(signed_notes.read(log["checkpoint"].encode()).text).head.size
    return {"origin": log["origin"], "size": "" if size is None else spoken.number(size), "fault": log["fault"]}


def _register(spoken: Language, node: Mapping[str, Any]) -> dict[str, str]:
    return {"node": node["name"], "count": spoken.number(node["register"]["count"])}


def _languages(said: Mapping[str, Any]) -> list[str]:
    """Those of the places where nodes stand, of which there are pages, and the one that the pages are written in."""
    found = [languages.choose(None, [code]).code for each in said["jurisdictions"] for code in each["languages"]]
    return list(dict.fromkeys([*found, languages.SOURCE]))


def _other(code: str) -> dict[str, str]:
    locale = Locale(code)
    return {"code": code, "direction": locale.text_direction, "name": locale.get_display_name() or code}
