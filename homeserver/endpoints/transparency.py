"""What was disclosed to authorities, for everybody: for each jurisdiction as JSON with the register, and as a page.

The page says nothing that the signed register does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.disclosure import publishing
from homeserver.endpoints import browsing
from homeserver.endpoints.passport import FIELDS
from homeserver.pages import languages, places
from homeserver.protocol.disclosure_register import Kind
from homeserver.protocol.errors import NotFound
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.pages.languages import Language
    from homeserver.web.messages import Request

PAGE: Final = "/_domicile/transparency"
_MOST: Final = 2**31

COUNTED: Final[Mapping[Kind, str]] = {
    Kind.REQUESTED: "Orders on record: %(number)s",
    Kind.OPENED: "Carried out: %(number)s",
    Kind.REFUSED: "Refused: %(number)s",
    Kind.NARROWED: "Narrowed: %(number)s",
    Kind.EXPIRED: "Expired before they were carried out: %(number)s",
}
"""What is counted on the page, in words."""


@route("GET", PAGE + "/{file}", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def transparency(server: Server, request: Request) -> dict[str, Any]:
    """``JURISDICTION.json``: the ceiling, the counts and the register; ``after`` in the query: only later entries."""
    code, dot, kind = request.args["file"].rpartition(".")
    if (dot, kind) != (".", "json"):
        raise NotFound("There is nothing of that name; what there is, is called by a jurisdiction, as in FR.json")
    return await publishing.transparency(server, code, request.query.integer("after", default=0, low=0, high=_MOST))


@browsing.page("GET", PAGE, limit=Limit.REQUEST)
async def transparency_page(server: Server, request: Request) -> Response:
    """The counts, for people. ``language`` in the query: which one, whatever the browser prefers."""
    spoken = languages.choose(request.query.get("language"), [browsing.language_of(server, request).code])
    codes = sorted({node.jurisdiction for node in server.nodes})
    return browsing.plain(
        server,
        spoken,
        "transparency.html",
        jurisdictions=[_shown(server, spoken, await publishing.transparency(server, code)) for code in codes],
        action=PAGE,
        others=[each for each in languages.LANGUAGES if each != spoken.code],
    )


def _shown(server: Server, spoken: Language, said: Mapping[str, Any]) -> dict[str, Any]:
    heads = [register["head"] for register in said["registers"]]
    counts = {kind: sum(head["counts"][kind] for head in heads) for kind in COUNTED}
    return {
        "place": places.label(server.policy.now, spoken, said["jurisdiction"]),
        "code": said["jurisdiction"],
        "fields": [spoken.text(FIELDS[each]) for each in said["ceiling"]["fields"]],
        "approvals": spoken.number(said["ceiling"]["approvals"]),
        "counts": [spoken.text(words) % {"number": spoken.number(counts[kind])} for kind, words in COUNTED.items()],
        "gagged": spoken.number(sum(head["gagged"] for head in heads)),
        "damaged": [register["node"] for register in said["registers"] if register["fault"]],
        "down": said["nodes_down"],
    }
